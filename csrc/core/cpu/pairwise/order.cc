#include "core/cpu/pairwise/order.h"

#include <cstring>

namespace fastneg::cpu {
namespace {

constexpr int kMinDigitBits = 6, kMaxDigitBits = 12;
constexpr uint64_t kSign = uint64_t{1} << 63;

template <typename T>
void UnsignedKeys(const void* labels, int64_t size, uint64_t* keys) {
  const T* values = static_cast<const T*>(labels);
  // The largest uint64 shares its key with NaN, which no integer is; kNoLabel is looked for in floating labels only.
  for (int64_t i = 0; i < size; ++i) keys[i] = values[i];
}

template <typename T>
void SignedKeys(const void* labels, int64_t size, uint64_t* keys) {
  const T* values = static_cast<const T*>(labels);
  for (int64_t i = 0; i < size; ++i) keys[i] = static_cast<uint64_t>(static_cast<int64_t>(values[i])) ^ kSign;
}

// A floating-point number of any width by its bits, the magnitude of infinity given: negative numbers count down from
// the middle, positive ones up, and both zeros are the middle.
template <typename Bits>
void FloatKeys(const void* labels, int64_t size, Bits infinity, uint64_t* keys) {
  constexpr Bits kSignBit = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  const Bits* values = static_cast<const Bits*>(labels);
  for (int64_t i = 0; i < size; ++i) {
    const Bits magnitude = values[i] & static_cast<Bits>(~kSignBit);
    const bool negative = (values[i] & kSignBit) != 0;
    keys[i] = magnitude > infinity ? kNoLabel
              : negative           ? uint64_t{kSignBit} - magnitude
                                   : uint64_t{kSignBit} + magnitude;
  }
}

// Of keys that take two values only, `low` and a higher one. Without a branch on the key, which may be random.
void SplitByKey(const uint64_t* keys, uint64_t low, int64_t size, const uint32_t* order, uint32_t* sorted) {
  int64_t num_low = 0;
  for (int64_t k = 0; k < size; ++k) num_low += keys[order[k]] == low;
  int64_t next_low = 0, next_high = num_low;
  for (int64_t k = 0; k < size; ++k) {
    const bool is_low = keys[order[k]] == low;
    sorted[is_low ? next_low : next_high] = order[k];
    next_low += is_low;
    next_high += !is_low;
  }
}

}  // namespace

bool LabelKeys(const void* labels, DType dtype, int64_t size, uint64_t* keys) {
  switch (dtype) {
    case DType::kBool: {
      const uint8_t* values = static_cast<const uint8_t*>(labels);
      for (int64_t i = 0; i < size; ++i) keys[i] = values[i] != 0;
      return true;
    }
    case DType::kUInt8:
      UnsignedKeys<uint8_t>(labels, size, keys);
      return true;
    case DType::kInt8:
      SignedKeys<int8_t>(labels, size, keys);
      return true;
    case DType::kInt16:
      SignedKeys<int16_t>(labels, size, keys);
      return true;
    case DType::kUInt16:
      UnsignedKeys<uint16_t>(labels, size, keys);
      return true;
    case DType::kInt32:
      SignedKeys<int32_t>(labels, size, keys);
      return true;
    case DType::kUInt32:
      UnsignedKeys<uint32_t>(labels, size, keys);
      return true;
    case DType::kInt64:
      SignedKeys<int64_t>(labels, size, keys);
      return true;
    case DType::kUInt64:
      UnsignedKeys<uint64_t>(labels, size, keys);
      return true;
    case DType::kFloat16:
      FloatKeys<uint16_t>(labels, size, 0x7c00, keys);
      return true;
    case DType::kBFloat16:
      FloatKeys<uint16_t>(labels, size, 0x7f80, keys);
      return true;
    case DType::kFloat32:
      FloatKeys<uint32_t>(labels, size, 0x7f800000u, keys);
      return true;
    case DType::kFloat64:
      FloatKeys<uint64_t>(labels, size, 0x7ff0000000000000u, keys);
      return true;
  }
  return false;
}

uint32_t* SortByKeys(const uint64_t* keys, int64_t size, uint32_t* order, uint32_t* spare) {
  if (size < 2) return order;
  const uint64_t first = keys[order[0]];
  uint64_t differing = 0;
  for (int64_t k = 1; k < size; ++k) differing |= keys[order[k]] ^ first;
  if (differing == 0) return order;
  bool two_values = true;
  for (int64_t k = 1; k < size && two_values; ++k) {
    const uint64_t difference = keys[order[k]] ^ first;
    two_values = difference == 0 || difference == differing;
  }
  if (two_values) {
    SplitByKey(keys, first < (first ^ differing) ? first : first ^ differing, size, order, spare);
    return spare;
  }

  const int lowest = __builtin_ctzll(differing);
  const int num_bits = 64 - __builtin_clzll(differing) - lowest;
  // As many buckets as rows, so that counting and clearing them is no work of its own.
  const int size_bits = 64 - __builtin_clzll(static_cast<uint64_t>(size));
  const int most_bits = size_bits < kMinDigitBits   ? kMinDigitBits
                        : size_bits > kMaxDigitBits ? kMaxDigitBits
                                                    : size_bits;
  const int num_passes = (num_bits + most_bits - 1) / most_bits;
  const int digit_bits = (num_bits + num_passes - 1) / num_passes;
  const uint64_t mask = (uint64_t{1} << digit_bits) - 1;
  for (int pass = 0; pass < num_passes; ++pass) {
    const int shift = lowest + pass * digit_bits;
    uint32_t places[1 << kMaxDigitBits];
    std::memset(places, 0, sizeof(uint32_t) << digit_bits);
    for (int64_t k = 0; k < size; ++k) ++places[(keys[order[k]] >> shift) & mask];
    uint32_t begin = 0;
    for (uint64_t digit = 0; digit <= mask; ++digit) {
      const uint32_t count = places[digit];
      places[digit] = begin;
      begin += count;
    }
    for (int64_t k = 0; k < size; ++k) spare[places[(keys[order[k]] >> shift) & mask]++] = order[k];
    uint32_t* const sorted = spare;
    spare = order;
    order = sorted;
  }
  return order;
}

}  // namespace fastneg::cpu
