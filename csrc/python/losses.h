// The losses of fastneg._core, one file each.
#ifndef FASTNEG_PYTHON_LOSSES_H_
#define FASTNEG_PYTHON_LOSSES_H_

#include <pybind11/pybind11.h>

namespace fastneg {

void DefineRolledSoftmax(pybind11::module_& m);
void DefineShuffledCosine(pybind11::module_& m);
void DefineSampledSoftmax(pybind11::module_& m);
void DefineInBatchSoftmax(pybind11::module_& m);
void DefineSvSoftmax(pybind11::module_& m);
void DefinePairwiseLogistic(pybind11::module_& m);

}  // namespace fastneg

#endif  // FASTNEG_PYTHON_LOSSES_H_
