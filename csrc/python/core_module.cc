// fastneg._core: the core on NumPy arrays, without TensorFlow. For tests and benchmarks of the core alone, and for
// telling what this machine runs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "core/api.h"
#include "python/losses.h"
#include "python/probes.h"

namespace py = pybind11;

namespace fastneg {
namespace {

std::vector<std::string> Isas() {
  std::vector<std::string> names;
  for (const char* const* name = AvailableIsas(); *name != nullptr; ++name) names.emplace_back(*name);
  return names;
}

std::optional<std::string> CurrentIsa() {
  const char* name = ActiveIsa();
  return name == nullptr ? std::nullopt : std::optional<std::string>(name);
}

void ChooseIsa(const std::string& name) {
  if (SetIsa(name.c_str())) return;
  std::string known;
  for (const std::string& isa : Isas()) known += (known.empty() ? "" : ", ") + isa;
  throw py::value_error("`name` must be one of " + known + ". Received: " + name + ".");
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The fastneg core on NumPy arrays, without TensorFlow.";
  DefineRolledSoftmax(m);
  DefineShuffledCosine(m);
  DefineSampledSoftmax(m);
  DefineInBatchSoftmax(m);
  DefineSvSoftmax(m);
  DefinePairwiseLogistic(m);
  m.def("available_isas", &Isas, "Instruction sets that this build and this machine share, weakest first.");
  m.def("active_isa", &CurrentIsa, "The instruction set in use; None if FASTNEG_ISA names an unavailable one.");
  m.def("set_isa", &ChooseIsa, py::arg("name"), "Uses the kernels of one instruction set from now on.");
  m.def(
      "default_num_threads", [] { return DefaultNumThreads().count; }, "Threads that a call with num_threads=0 uses.");
  DefineProbes(m);
}

}  // namespace fastneg
