// Python face of csrc/vote. A function returns the key, None where the text abstains, or
// NotImplemented where the Python reference must decide.
#include "fastsi/vote.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <string_view>

#include "bindings.h"

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

}  // namespace

void fastsi::bind_vote(py::module_& m) {
  m.def(
      "key_of_answer", [](const py::str& text) { return read_text(text, vote::key_of_answer); },
      py::arg("text"));
  m.def(
      "answer_key",
      [](const py::str& text, int extractor, bool last_number, std::vector<std::string> run_on) {
        const vote::ExtractOptions options{static_cast<vote::Extractor>(extractor), last_number,
                                           std::move(run_on)};
        return read_text(text, [&](std::string_view utf8, std::string* key) {
          return vote::answer_key(utf8, options, key);
        });
      },
      py::arg("text"), py::arg("extractor"), py::arg("last_number"), py::arg("run_on"));
}
