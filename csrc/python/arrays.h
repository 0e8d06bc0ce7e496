// NumPy arrays as the core takes them.
#ifndef FASTNEG_PYTHON_ARRAYS_H_
#define FASTNEG_PYTHON_ARRAYS_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "core/api.h"

namespace fastneg {

// The element type of `array`; bfloat16 is ml_dtypes's, recognised by its name. Raises TypeError for what is no number.
DType DTypeOf(const pybind11::array& array, const char* name);

std::string ShapeOf(const pybind11::array& array);

// Raises ValueError unless `array` has this shape.
void RequireShape(const pybind11::array& array, const char* name, const std::vector<pybind11::ssize_t>& shape);

// `array` with contiguous rows (the last axis): itself where it has them already, else a copy. Rows may lie apart.
pybind11::array WithContiguousRows(const pybind11::array& array);

// Contiguous, aligned and of `dtype`: itself where it is that already, else a copy.
pybind11::array CastTo(const pybind11::object& values, const char* dtype);

pybind11::array Empty(const std::vector<pybind11::ssize_t>& shape, bool is_double);

// Memory for the core's work, aligned to 64 bytes.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t num_bytes);
  void* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> data_;
};

// Raises for a status that no check of a binding explains better.
[[noreturn]] void RaiseStatus(Status status);

}  // namespace fastneg

#endif  // FASTNEG_PYTHON_ARRAYS_H_
