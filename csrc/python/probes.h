// What this machine can do at best, measured: the limits that benchmarks compare with.
#ifndef FASTNEG_PYTHON_PROBES_H_
#define FASTNEG_PYTHON_PROBES_H_

#include <pybind11/pybind11.h>

namespace fastneg {

// Adds measure_fma_peak and measure_read_bandwidth to the module.
void DefineProbes(pybind11::module_& m);

}  // namespace fastneg

#endif  // FASTNEG_PYTHON_PROBES_H_
