"""Where the answer is found in a response: every convention, and texts that mislead extractors."""

from __future__ import annotations

import pytest

from fastsi.errors import ConfigError
from fastsi.vote import EXTRACTORS, answer_key
from fastsi.vote.extract import own_answer, reference_answer_key

# Texts on which published extractors fail, each with the answer a reader would take.
MISLEADING = [
    ("The answer is 18. Let me double-check: 3+4=7.", "num:18"),
    ("#### 18\n\nQuestion: how many 7?", "num:18"),
    ("#### 18\n\nQuestion: how many?\nAnswer: 3 + 4 = 7\n#### 7", "num:18"),
    ("So the answer is **18**.", "num:18"),
    ("They met in 2019, so the answer is 18 in 2020.", "num:18"),
    ("First \\boxed{3}. Then we add 2: $\\boxed{5}$.", "num:5"),
    ("Thus $\\boxed{18", "num:18"),
    ("\\boxed 18", "num:18"),
    ("$\\fbox{18}$", "num:18"),
    ("<answer>18</answer>", "num:18"),
    ("The answer is \\[18\\]", "num:18"),
    ("\u7b54\u6848\u662f 18\u3002", "num:18"),
    ("I am not sure about this.", None),
]

BOXED = [
    ("\\boxed{\\frac{1}{2}}", "num:1/2"),
    ("\\boxed{\\text{(B)}}", "choice:b"),
    ("\\boxed{\\{1, 2\\}}", "set:{1, 2}"),
    ("\\boxed{3} so \\boxed{}", "num:3"),
    ("\\boxed{3} and then \\boxed{4", "num:3"),
    ("\\boxed{\\fbox{7}}", "num:7"),
    ("\\boxed{\\frac{1}{2", None),
    ("\\boxed{18 and the text goes on\nto another line", "num:18"),
    ("$\\boxed 18$ apples", "num:18"),
    ("The answer is 5. No: \\boxed{6}.", "num:6"),
    ("\\boxed{6}. The answer is 5.", "num:6"),
    ("\\boxed{18 \\text{ apples}}", "num:18"),
    ("\\boxed {18}", "num:18"),
    ("\\boxed{\\text{The answer is } 18}", "num:18"),
]

TAGS = [
    ("<think>maybe <answer>7</answer></think><answer> 18 </answer>", "num:18"),
    ("<answer>3</answer> <ANSWER>4</ANSWER>", "num:4"),
    ("<answer>The answer is (C).</answer>", "choice:c"),
    ("<answer>18\nand then", "num:18"),
    ("<answer></answer>", None),
    ("<answer>5</answer> then <answer>", "num:5"),
]

HASHES = [
    ("48/2 = <<48/2=24>>24\n#### 72", "num:72"),
    ("#### $1,234.50", "num:2469/2"),
    ("#### -7", "num:-7"),
    ("#### Step 1: add\n3 + 4\n#### The final step\n#### 7", "num:7"),
    ("#### 1. Find the total\nwe have 5 apples", None),
    ("#### Answer: 7", "num:7"),
    ("#### 18\n#### 19", "num:18"),
    ("#### 18 Question: how many 7? #### 7", "num:18"),
]

PHRASES = [
    ("The answer is 18.", "num:18"),
    ("the answer is (b).", "choice:b"),
    ("The answer is yes.", "bool:yes"),
    ("The answer is No. Because it is.", "bool:no"),
    ("So the final answer is: $18.", "num:18"),
    ("The answer is $18. He had $5.", "num:18"),
    ("Answer: 18", "num:18"),
    ("**Answer:** 18 apples", "num:18"),
    ("**Final Answer**\n\n18", "num:18"),
    ("### Final Answer\n$$18$$", "num:18"),
    ("Final Answer: The final answer is $18$. I hope it is correct.", "num:18"),
    ("The answer is 3.5. Good.", "num:7/2"),
    ("The answer is $3.5$. Good.", "num:7/2"),
    ("The answer is 1/2 cup.", "num:1/2"),
    ("The answer is \\(18\\).", "num:18"),
    ("The answer is\n\\[\n\\frac{1}{2}\n\\]", "num:1/2"),
    ("The answer is 7. Wait, no. The answer is 8.", "num:8"),
    ("The answer is not 7. The answer is unknown.", None),
    ("The answer is 5. The answer is not 7.", "num:5"),
    ("The answer is x = 5.", "num:5"),
    ("The answer is 3 + 4 = 7.", "num:7"),
    ("The answer is B. 18 apples", "choice:b"),
    ("The answer is: **(B) 18**", "choice:b"),
    ("Answer: Let's think step by step. 3 + 4 = 7", None),
    ("Answer:\nFirst we add 3 and 4 to get 7.", None),
    ("Answer Choices: (a) 5 (b) 6", None),
    ("The answer to this problem is: 3.5.", "num:7/2"),
    ("The answer, therefore, is 12.", "num:12"),
    ("The correct option is (C).", "choice:c"),
    ("The correct answer is option D.", "choice:d"),
    ("The answer is Paris.", "text:paris"),
    ("The answer is Mr. Smith. He ran.", "text:mr. smith"),
    ("The answer is", None),
    ("The answer is .", None),
    ("THE ANSWER IS 18", "num:18"),
    ("The answer is 18!", "num:18"),
    ("The answer is 18.Let me check", "num:18"),
    ("The answer is eighteen.", "num:18"),
    ("The answer is 80,000 dollars.", "num:80000"),
    ("Answer\uff1a18", "num:18"),
    ("Respuesta: 18", "num:18"),
    ("R\u00e9ponse : 18", "num:18"),
    ("\u0627\u0644\u0625\u062c\u0627\u0628\u0629: \u0661\u0668", "num:18"),
    ("\u7b54\u3048: \uff11\uff18", "num:18"),
    ("The answer is 5<|endoftext|>The answer", "num:5"),
    ("The answer is 5.</s>", "num:5"),
    ("The answer is 5 ### Next", "num:5"),
    ("So the answer is she has 5 apples left.", "num:5"),
    ("So the answer is $9 * 2 = $18.", "num:18"),
    ("He answered is 5 enough?", None),
    ("This is an answerless text about 5 cats.", None),
]

BARE = [
    ("18", "num:18"),
    (" (B)\n", "choice:b"),
    ("Yes.", "bool:yes"),
    ("5 apples", "num:5"),
    ("Eighteen", "num:18"),
    ("He thinks that it is so.\n\n(C)", "choice:c"),
    ("It can fly.\nNo", "bool:no"),
    ("One day Tom went to the store", None),
    ("Tom has 5 apples.", None),
    ("He has 3 and gets 4.\nThat makes 7", None),
    ("", None),
    ("   \n ", None),
]

CUTS = [
    ("<think>The answer is 5.</think>The answer is 6.", "num:6"),
    ("<think>The answer is 5.</think>", None),
    ("a</think>b</think>The answer is 4.", "num:4"),
    ("The answer is 4.\nQ: what next?\nA: The answer is 5.", "num:4"),
    ("The answer is 4. Problem 2: what next? The answer is 5.", "num:4"),
    ("The answer is 4.\n\n**Question:** next\nThe answer is 5.", "num:4"),
    ("Q: restated\nA: The answer is 4.\nQ: n\nA: The answer is 5.", "num:4"),
    ("\n\nQuestion: restated\nThe answer is 4.", "num:4"),
    ("The problem: find it. The answer is 4.", "num:4"),
    ("No answer here.\nQuestion: next?\nThe answer is 5.", None),
]


MORE = [
    ("So 18 is the answer.", "num:18"),
    ("Therefore, (B) is the correct answer.", "choice:b"),
    ("Option C is correct.", "choice:c"),
    ("The correct answer is (D)", "choice:d"),
    ("The answer is 18.\n\nWait, let me verify: 9*2=18. Yes, the answer is correct.", "num:18"),
    ("**Final Answer:** \\(\\boxed{18}\\)", "num:18"),
    ("The answer is: $$\\frac{3}{4}$$", "num:3/4"),
    ("\\boxed{\\text{The answer is } 18}", "num:18"),
    ("\\boxed{x = 5}", "num:5"),
    ("$\\boxed{\\$18}$", "num:18"),
    ("Final Answer: 18\n\n---\nNote: the answer assumes 3 items.", "num:18"),
    ("The answer is 18 dollars per week.", "num:18"),
    ("The answer is approximately 3.14.", "num:157/50"),
    ("The answer is therefore 18.", "num:18"),
    ("The answer is thus **18**.", "num:18"),
    ("The answer is simply 18.", "num:18"),
    ("The answer is -18.", "num:-18"),
    ("The answer is \u221218.", "num:-18"),
    ("The answer is (18).", "num:18"),
    ("Answer: 18/20", "num:9/10"),
    ("Answer: 18%", "num:18"),
    ("The answer is 18\u20ac.", "num:18"),
    ("Answer - 18", None),
    ("Answer: - 18", "num:-18"),
    ("Answer\n\n18 apples", "num:18"),
    ("## Answer\n\n**18**", "num:18"),
    ("The answer is\n\n**18**", "num:18"),
    ("The answer is 1,234,567.89.", "num:123456789/100"),
    ("<answer>\n18\n</answer>", "num:18"),
    ("<answer>\\boxed{18}</answer>", "num:18"),
    ("<think>foo</think>\n<answer>B</answer>", "choice:b"),
    ("####18", "num:18"),
    ("#### **18**", "num:18"),
    ("#### 18.", "num:18"),
    ("#### 18<|im_end|>", "num:18"),
    ("#### The answer is 18", "num:18"),
    ("#### $\\boxed{18}$", "num:18"),
    ("#### 18\n#### 20", "num:18"),
    ("Step 1: 3\n#### Step 2\n#### 7", "num:7"),
    ("#### Final Answer: 18", "num:18"),
    ("### 18", None),
    ("##### 18", "num:18"),
    ("The answer is 18\nThe answer is 19", "num:19"),
    ("The answer is 18. However, the answer could be 20 if...", "num:18"),
    ("I think the answer is 18, but I'm not sure.", "num:18"),
    ("The answer might be 18.", None),
    ("The answer: eighteen", "num:18"),
    ("My final answer is 18", "num:18"),
    ('Hence the answer to the question "how many" is 18.', "num:18"),
    ("Thus the answers are 3 and 5.", "set:{3, 5}"),
    ("The answer is 5 or -5", "set:{-5, 5}"),
    ("The answer is 5:30 PM.", "time:17:30"),
    ("The answer is no.", "bool:no"),
    ("No, the answer is yes.", "bool:yes"),
    ("The answer is not known.", None),
    ("There is no answer.", None),
    ("I don't know the answer.", None),
    ("The answer cannot be determined.", None),
    ("The answer is none of the above.", "text:none of the above"),
    ("The answer is 18 (eighteen).", "num:18"),
    ("Q: What?\nA: The answer is 18.", "num:18"),
    ("The answer is 18.\n\nQ: foo?\nA: The answer is 7.", "num:18"),
    ("The answer is 18. Q: foo? The answer is 7", "num:18"),
    ("The answer is 18.\nQuestion 2: foo\nThe answer is 7", "num:18"),
    ("The answer is 18.\n### Problem 3:\nThe answer is 7", "num:18"),
    ("The answer is 18.\n\n**Question**: foo The answer is 7", "num:18"),
    ("The answer is 18.\nProblem: x \\boxed{7}", "num:18"),
    ("Answer: 18\n\nQuestion: next\n\nAnswer: 7", "num:18"),
    ("The answer is 18.\n\nExercise 2: foo. The answer is 7.", "num:7"),
    ("\\boxed{18}\n\nQuestion: \\boxed{7}", "num:18"),
    ("$\\boxed{18", "num:18"),
    ("$\\boxed{\\frac{1}{2}", "num:1/2"),
    ("\\boxed{18.", "num:18"),
    ("\\boxed{1,000", "num:1000"),
    ("\u7b54\u6848\uff1a18", "num:18"),
    ("\u6240\u4ee5\u7b54\u6848\u662f**18**\u3002", "num:18"),
    ("\u7b54\u6848\u662f18\u5143\u3002", "num:18"),
    ("\u7b54\u3048\u306f18\u3067\u3059\u3002", "num:18"),
    ("\uc815\ub2f5: 18", "num:18"),
    ("\u041e\u0442\u0432\u0435\u0442: 18", "num:18"),
    ("La respuesta es 18.", "num:18"),
    ("Die Antwort ist 18.", "num:18"),
    ("La r\u00e9ponse est 18.", "num:18"),
    ("R\u00e9ponse\u202f: 18", "num:18"),
    ("\u0627\u0644\u0625\u062c\u0627\u0628\u0629: \u0628", "choice:b"),
    ("\u0989\u09a4\u09cd\u09a4\u09b0: \u09e7\u09ee", "num:18"),
    ("Jibu: 18", "num:18"),
    ("\u0c38\u0c2e\u0c3e\u0c27\u0c3e\u0c28\u0c02: 18", "num:18"),
    ("\u0e04\u0e33\u0e15\u0e2d\u0e1a: 18", "num:18"),
    ("La risposta \u00e8 18.", "num:18"),
    ("A resposta \u00e9 (C).", "choice:c"),
    ("\u7b54\u6848\u662fB", "choice:b"),
    ("\u7b54\u6848\u9009B", None),
    ("\u56e0\u6b64\uff0c\u6b63\u786e\u7b54\u6848\u662f\uff1aC", "choice:c"),
    ("Respuesta: **18**", "num:18"),
    ("\u7b54\uff1a18\u5143", "num:18"),
    ("Odpowied\u017a: 18", None),
    ("The answer is \\boxed{}. So 18", None),
    ("The final answer is $\\boxed{\\text{yes}}$", "bool:yes"),
    ("The answer is 10\\%.", "num:10"),
    ("answer=18", "num:18"),
    ("answer = 18", "num:18"),
    ("answer:18", "num:18"),
    ("ANSWER: B", "choice:b"),
    ("Answer: (B)", "choice:b"),
    ("Answer: B)", "choice:b"),
    ("Answer: b", "choice:b"),
    ("answer is b", "choice:b"),
    ("The answer is A.", "choice:a"),
    ("The answer is a dog.", "text:dog"),
    ("The answer is 18.5.", "num:37/2"),
    ("The answer is .5", "num:1/2"),
    ("The answer is 18 . ", "num:18"),
    ('The answer is "18".', "num:18"),
    ("The answer is '18'.", "num:18"),
    ("The answer is *18*.", "num:18"),
    ("The answer is __18__.", "num:18"),
    ("The answer is `18`.", "num:18"),
    ("The answer is ```18```", "num:18"),
    ("The answer is $18$.", "num:18"),
    ("The answer is \\$18.", "num:18"),
    ("The answer is \\(18\\) apples.", "num:18"),
    ("The answer is 18</answer>", "num:18"),
    ("The answer is [18].", "num:18"),
    ("The answer is {18}.", "num:18"),
    ("So, the total is 18. The answer makes sense.", None),
    ("The answer is 18. The answer makes sense.", "num:18"),
    ("The answer is 18. This answer is reasonable.", "num:18"),
    ("The answer is 18. My answer is based on the facts.", "num:18"),
    ("Is the answer 18? The answer is yes.", "bool:yes"),
    ("The answer is 18. The answer must be positive.", "num:18"),
    ("The answer is 18. The answer is in dollars.", "num:18"),
    ("The answer is 18. The answer is the same as before.", "num:18"),
    ("The answer is 18. The answer is what we expected.", "num:18"),
    ("The answer is (a).", "choice:a"),
    ("The best answer is option (B), 18.", "choice:b"),
    ("I choose (B).", None),
    ("The correct choice is B", "choice:b"),
    ("The right option is: (C)", "choice:c"),
    (
        "Answer: \\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
        "matrix:\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
    ),
    ("The answer is [1, 2).", "tuple:[1, 2)"),
    ("Answer => 18", "num:18"),
    ("Answer -> 18", "num:18"),
    ("Answer: The correct option is B.", "choice:b"),
    ("The answer for Problem 3: 18", "num:18"),
    ("The answer that we want is probably 18.", "num:18"),
    ("The answer is 18. The answer is in dollars.", "num:18"),
    ("The answer is 5. So the answer is Paris.", "text:paris"),
    ("Plan B is the answer to it, they said, and did not say more.", None),
    ("We check them all in turn. Therefore, option C is correct, as said.", "choice:c"),
    ("We check them all in turn. It is raining, so that (B) is right, I say.", "choice:b"),
    ("We check it: 18 is correct and 19 is right, as everybody can see here.", None),
]


@pytest.mark.parametrize(
    ("text", "key"), MISLEADING + BOXED + TAGS + HASHES + PHRASES + BARE + CUTS + MORE
)
def test_auto(text: str, key: str | None) -> None:
    assert answer_key(text) == key
    assert reference_answer_key(text) == key


@pytest.mark.parametrize(("text", "key"), MISLEADING[:-1])
def test_a_chain_of_thought_before_and_a_next_question_after_change_nothing(
    text: str, key: str
) -> None:
    before = "Each of the 3 boys has 4 marbles, so 3 * 4 = 12 marbles.\n"
    assert answer_key(before + text) == key
    assert answer_key(before + text + "\n\nQuestion: 5 and 6?\nThe answer is 99.") == key


def test_last_number_is_off_by_default() -> None:
    text = "She has 5 apples and gets 2, which makes 7."
    assert answer_key(text) is None
    assert answer_key(text, last_number=True) == "num:7"
    assert answer_key("That is $1,234.50.", last_number=True) == "num:2469/2"
    assert answer_key("no digits", last_number=True) is None
    assert answer_key("The answer is 5. I checked 7.", last_number=True) == "num:5"


@pytest.mark.parametrize(
    ("extractor", "key"),
    [
        ("auto", "num:1"),
        ("boxed", "num:1"),
        ("tag", "num:2"),
        ("hash", "num:3"),
        ("phrase", "num:4"),
        ("last_number", "num:4"),
    ],
)
def test_an_extractor_reads_only_its_own_mark(extractor: str, key: str) -> None:
    text = "\\boxed{1} <answer>2</answer>\n#### 3\nThe answer is 4."
    assert answer_key(text, extractor=extractor) == key
    assert answer_key("nothing here", extractor=extractor) is None


def test_choice_and_yes_no_extractors() -> None:
    assert answer_key("Both (A) and (C) fit, so I pick (C) here", extractor="choice") == "choice:c"
    assert answer_key("The answer is 5, which is (D) above", extractor="choice") == "choice:d"
    assert answer_key("The answer is (B). Not (A).", extractor="choice") == "choice:b"
    assert answer_key("The answer is 5.", extractor="choice") is None
    assert answer_key("Yes, since 3 > 2 by far, so it goes", extractor="yes_no") == "bool:yes"
    assert answer_key("It is so. The answer is no.", extractor="yes_no") == "bool:no"
    assert answer_key("Nothing fits.", extractor="yes_no") is None


def test_every_extractor_is_listed_and_an_unknown_one_is_refused() -> None:
    assert EXTRACTORS[0] == "auto"
    for name in EXTRACTORS:
        assert answer_key("", extractor=name) is None
    with pytest.raises(ConfigError, match=r"'boxd'.*'boxed'"):
        answer_key("5", extractor="boxd")


def test_run_on_marks_are_configurable() -> None:
    text = "The answer is 4.\nExercise: more\nThe answer is 5."
    assert answer_key(text) == "num:5"
    assert answer_key(text, run_on=("Exercise",)) == "num:4"
    assert answer_key("The answer is 4.\nQ: x\nThe answer is 5.", run_on=()) == "num:5"
    assert own_answer("a (b\nA+B: c", ("A+B",)) == "a (b\n"  # marks are words, not patterns
