#include "python/arrays.h"

#include <new>
#include <stdexcept>
#include <utility>

namespace py = pybind11;

namespace fastneg {

DType DTypeOf(const py::array& array, const char* name) {
  const std::string dtype = py::str(array.dtype());
  static const std::pair<const char*, DType> kNames[] = {
      {"bool", DType::kBool},       {"int8", DType::kInt8},         {"uint8", DType::kUInt8},
      {"int16", DType::kInt16},     {"uint16", DType::kUInt16},     {"int32", DType::kInt32},
      {"uint32", DType::kUInt32},   {"int64", DType::kInt64},       {"uint64", DType::kUInt64},
      {"float16", DType::kFloat16}, {"bfloat16", DType::kBFloat16}, {"float32", DType::kFloat32},
      {"float64", DType::kFloat64}};
  for (const auto& [known, value] : kNames) {
    if (dtype == known) return value;
  }
  throw py::type_error("`" + std::string(name) + "` must be an array of numbers. Received: dtype " + dtype + ".");
}

std::string ShapeOf(const py::array& array) {
  std::string text = "[";
  for (py::ssize_t d = 0; d < array.ndim(); ++d) text += (d ? ", " : "") + std::to_string(array.shape(d));
  return text + "]";
}

void RequireShape(const py::array& array, const char* name, const std::vector<py::ssize_t>& shape) {
  bool same = array.ndim() == static_cast<py::ssize_t>(shape.size());
  std::string wanted;
  for (size_t d = 0; d < shape.size(); ++d) {
    same = same && array.shape(d) == shape[d];
    wanted += (d ? ", " : "") + std::to_string(shape[d]);
  }
  if (!same) {
    throw py::value_error("`" + std::string(name) + "` must have shape [" + wanted + "]. Received: " + ShapeOf(array) +
                          ".");
  }
}

py::array WithContiguousRows(const py::array& array) {
  if (array.itemsize() == 0) return array;  // Of a dtype that is refused by whoever asks for it.
  const bool aligned = reinterpret_cast<uintptr_t>(array.data()) % array.itemsize() == 0;
  const bool rows = array.ndim() < 2 || array.shape(0) <= 1 ||
                    (array.strides(0) >= array.shape(1) * array.itemsize() && array.strides(0) % array.itemsize() == 0);
  const bool contiguous =
      array.ndim() == 0 || array.shape(array.ndim() - 1) <= 1 || array.strides(array.ndim() - 1) == array.itemsize();
  if (aligned && rows && contiguous && array.dtype().attr("isnative").cast<bool>()) return array;
  const py::module_ numpy = py::module_::import("numpy");
  return numpy.attr("ascontiguousarray")(array, array.dtype().attr("newbyteorder")("="));
}

py::array CastTo(const py::object& values, const char* dtype) {
  const py::module_ numpy = py::module_::import("numpy");
  return numpy.attr("require")(values, dtype, py::make_tuple("C", "A"));
}

py::array Empty(const std::vector<py::ssize_t>& shape, bool is_double) {
  return is_double ? py::array(py::dtype::of<double>(), shape) : py::array(py::dtype::of<float>(), shape);
}

AlignedBuffer::AlignedBuffer(size_t num_bytes) {
  constexpr size_t kAlignment = 64;
  if (num_bytes == 0) return;
  data_.reset(std::aligned_alloc(kAlignment, (num_bytes + kAlignment - 1) / kAlignment * kAlignment));
  if (data_ == nullptr) throw std::bad_alloc();
}

void RaiseStatus(Status status) {
  if (status == Status::kIsaUnavailable) {
    throw std::runtime_error(std::string("FASTNEG_ISA must name an instruction set that this machine has. Received: ") +
                             UnavailableRequestedIsa() + ".");
  }
  throw std::runtime_error("The core refused its arguments with status " + std::to_string(static_cast<int>(status)) +
                           ".");
}

}  // namespace fastneg
