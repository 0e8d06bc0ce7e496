#include "core/cpu/gathered/labels.h"

namespace fastneg::cpu {
namespace {

template <typename T>
void Positive(const void* labels, int64_t size, uint8_t* counted) {
  const T* values = static_cast<const T*>(labels);
  for (int64_t i = 0; i < size; ++i) counted[i] = values[i] > T(0);
}

// Half types by their bits: greater than 0 is a clear sign, a set bit elsewhere, and no NaN.
void PositiveHalf(const void* labels, int64_t size, uint16_t infinity, uint8_t* counted) {
  const uint16_t* bits = static_cast<const uint16_t*>(labels);
  for (int64_t i = 0; i < size; ++i) counted[i] = bits[i] != 0 && bits[i] <= infinity;
}

}  // namespace

bool CountedRows(const void* labels, DType dtype, int64_t size, uint8_t* counted) {
  switch (dtype) {
    case DType::kBool:
    case DType::kUInt8:
      Positive<uint8_t>(labels, size, counted);
      return true;
    case DType::kInt8:
      Positive<int8_t>(labels, size, counted);
      return true;
    case DType::kInt16:
      Positive<int16_t>(labels, size, counted);
      return true;
    case DType::kUInt16:
      Positive<uint16_t>(labels, size, counted);
      return true;
    case DType::kInt32:
      Positive<int32_t>(labels, size, counted);
      return true;
    case DType::kUInt32:
      Positive<uint32_t>(labels, size, counted);
      return true;
    case DType::kInt64:
      Positive<int64_t>(labels, size, counted);
      return true;
    case DType::kUInt64:
      Positive<uint64_t>(labels, size, counted);
      return true;
    case DType::kFloat16:
      PositiveHalf(labels, size, 0x7c00, counted);
      return true;
    case DType::kBFloat16:
      PositiveHalf(labels, size, 0x7f80, counted);
      return true;
    case DType::kFloat32:
      Positive<float>(labels, size, counted);
      return true;
    case DType::kFloat64:
      Positive<double>(labels, size, counted);
      return true;
  }
  return false;
}

}  // namespace fastneg::cpu
