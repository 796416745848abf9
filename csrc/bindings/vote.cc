// Python face of csrc/vote. A function returns the key, None where the text abstains, or
// NotImplemented where the Python reference must decide.
#include "fastsi/vote.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings.h"
#include "fastsi/parallel.h"
#include "fastsi/vote_answers.h"
#include "fastsi/vote_span_device.h"

namespace py = pybind11;
namespace vote = fastsi::vote;

namespace {

py::object not_implemented() { return py::reinterpret_borrow<py::object>(Py_NotImplemented); }

py::object as_python(vote::Status status, const std::string& key) {
  switch (status) {
    case vote::Status::key:
      return py::str(key);
    case vote::Status::none:
      return py::none();
    default:
      return not_implemented();
  }
}

// Calls read(utf8, &key). A str with lone surrogates has no UTF-8: the reference reads it.
template <class Read>
py::object read_text(const py::str& text, Read&& read) {
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (data == nullptr) {
    PyErr_Clear();
    return not_implemented();
  }
  std::string key;
  const vote::Status status = read(std::string_view(data, static_cast<std::size_t>(size)), &key);
  return as_python(status, key);
}

// Texts that one task reads: enough to make taking it cheap.
constexpr std::size_t kTextsPerTask = 64;

py::list read_texts(const py::sequence& texts, const vote::ExtractOptions& options, int threads) {
  const std::size_t count = texts.size();
  std::vector<py::str> owners(count);  // keep what the views point into
  std::vector<std::string_view> views(count);
  std::vector<std::string> keys(count);
  std::vector<vote::Status> statuses(count, vote::Status::host);
  for (std::size_t i = 0; i < count; ++i) {
    owners[i] = texts[i].cast<py::str>();
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(owners[i].ptr(), &size);
    if (data == nullptr) {
      PyErr_Clear();
    } else {
      views[i] = std::string_view(data, static_cast<std::size_t>(size));
    }
  }
  {
    py::gil_scoped_release release;
    const auto tasks = static_cast<std::int64_t>((count + kTextsPerTask - 1) / kTextsPerTask);
    fastsi::parallel_for(tasks, threads, [&](std::int64_t task) {
      const std::size_t begin = static_cast<std::size_t>(task) * kTextsPerTask;
      const std::size_t end = std::min(begin + kTextsPerTask, count);
      for (std::size_t i = begin; i < end; ++i) {
        if (views[i].data() != nullptr) {
          statuses[i] = vote::answer_key(views[i], options, &keys[i]);
        }
      }
    });
  }
  py::list result(count);
  for (std::size_t i = 0; i < count; ++i) result[i] = as_python(statuses[i], keys[i]);
  return result;
}

using fastsi::TensorView;

py::tuple read_paths(const TensorView& tokens, const TensorView& path_indptr,
                     const std::array<TensorView, 3>& table, bool strip_first_blank,
                     const vote::ExtractOptions& options, const TensorView& key_id, int threads) {
  fastsi::PathAnswers answers;
  {
    py::gil_scoped_release release;
    answers = fastsi::read_path_answers(tokens, path_indptr,
                                        {table[0], table[1], table[2], strip_first_blank}, options,
                                        key_id, threads);
  }
  return py::make_tuple(answers.keys, answers.host);
}

void tally(const TensorView& key_id, std::int64_t num_keys, const TensorView& group_indptr,
           const TensorView* logprobs, const TensorView* weights, std::int64_t min_lead,
           double min_share, const std::array<TensorView, 11>& r) {
  fastsi::tally_votes(key_id, num_keys, group_indptr, logprobs, weights, min_lead, min_share,
                      {r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10]});
}

// The rules of the CUDA kernel, on the host; for tests.
vote::Status device_answer_key(std::string_view text, std::string* key) {
  const auto size = static_cast<int>(text.size());
  vote::DeviceKey found;
  switch (vote::device_answer_key(text.data(), size, vote::device::OneLane(), &found)) {
    case vote::DeviceStatus::key:
      *key = vote::name_of(found);
      return vote::Status::key;
    case vote::DeviceStatus::none:
      return vote::Status::none;
    default:
      return vote::Status::host;
  }
}

}  // namespace

void fastsi::bind_vote(py::module_& m) {
  py::class_<vote::ExtractOptions>(m, "ExtractOptions")
      .def(py::init([](int extractor, bool last_number, std::vector<std::string> run_on) {
        return vote::ExtractOptions{static_cast<vote::Extractor>(extractor), last_number,
                                    std::move(run_on)};
      }));
  m.def("key_of_answer", [](const py::str& text) { return read_text(text, vote::key_of_answer); });
  m.def("device_answer_key",
        [](const py::str& text) { return read_text(text, device_answer_key); });
  m.def("device_key_name", [](int kind, long long numerator, long long denominator) {
    return vote::name_of({static_cast<vote::DeviceKind>(kind), numerator, denominator});
  });
  m.def("answer_key", [](const py::str& text, const vote::ExtractOptions& options) {
    return read_text(text, [&](std::string_view utf8, std::string* key) {
      return vote::answer_key(utf8, options, key);
    });
  });
  m.def("answer_keys", &read_texts);
  m.def("read_path_answers", &read_paths);
  m.def("tally_votes", &tally, py::call_guard<py::gil_scoped_release>());
}
