#include "python/probes.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include "core/cpu/isa.h"

namespace fastneg {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point from) { return std::chrono::duration<double>(Clock::now() - from).count(); }

const cpu::CommonKernels& Kernels() {
  const cpu::KernelTable* kernels = cpu::ActiveKernels();
  if (kernels == nullptr) throw std::runtime_error("FASTNEG_ISA names an instruction set that is not available.");
  return *kernels->common;
}

// Float32 multiply-adds of one thread, in 1e9 floating-point operations a second: the best of `seconds` of trying.
double MeasureFmaPeak(double seconds) {
  const cpu::CommonKernels& kernels = Kernels();
  double best = 0;
  const Clock::time_point start = Clock::now();
  do {
    const Clock::time_point begin = Clock::now();
    const double operations = kernels.probe_fma(1 << 18);
    best = std::max(best, operations / Seconds(begin) * 1e-9);
  } while (Seconds(start) < seconds);
  return best;
}

// Reading a buffer of `bytes` again and again, in 1e9 bytes a second: the best of `seconds` of trying.
double MeasureReadBandwidth(int64_t bytes, double seconds) {
  if (bytes < 4096)
    throw pybind11::value_error("`bytes` must be at least 4096. Received: " + std::to_string(bytes) + ".");
  const cpu::CommonKernels& kernels = Kernels();
  bytes = bytes / 4096 * 4096;
  const std::unique_ptr<float, decltype(&std::free)> buffer(static_cast<float*>(std::aligned_alloc(4096, bytes)),
                                                            &std::free);
  if (buffer == nullptr) throw std::bad_alloc();
  const int64_t size = bytes / static_cast<int64_t>(sizeof(float));
  for (int64_t i = 0; i < size; ++i) buffer.get()[i] = 1.0f;
  const int64_t rounds = std::max<int64_t>(1, (int64_t{1} << 24) / bytes);
  double best = 0;
  const Clock::time_point start = Clock::now();
  do {
    const Clock::time_point begin = Clock::now();
    for (int64_t r = 0; r < rounds; ++r) kernels.probe_read(buffer.get(), size);
    best = std::max(best, static_cast<double>(bytes) * static_cast<double>(rounds) / Seconds(begin) * 1e-9);
  } while (Seconds(start) < seconds);
  return best;
}

}  // namespace

void DefineProbes(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("measure_fma_peak", &MeasureFmaPeak, py::arg("seconds") = 0.2, py::call_guard<py::gil_scoped_release>(),
        "Float32 multiply-add peak of one thread with the active instruction set, in GFLOP/s.");
  m.def("measure_read_bandwidth", &MeasureReadBandwidth, py::arg("bytes"), py::arg("seconds") = 0.2,
        "Read bandwidth of one thread over a buffer of `bytes`, in GB/s: choose a size that fits the cache level.");
}

}  // namespace fastneg
