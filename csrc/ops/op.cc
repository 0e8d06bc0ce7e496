#include "ops/op.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace fastneg::ops {
namespace {

// TensorFlow's names, which definitions use.
const char* TypeName(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return "bool";
    case DType::kInt8:
      return "int8";
    case DType::kUInt8:
      return "uint8";
    case DType::kInt16:
      return "int16";
    case DType::kUInt16:
      return "uint16";
    case DType::kInt32:
      return "int32";
    case DType::kUInt32:
      return "uint32";
    case DType::kInt64:
      return "int64";
    case DType::kUInt64:
      return "uint64";
    case DType::kFloat16:
      return "half";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat32:
      return "float";
    case DType::kFloat64:
      return "double";
  }
  return "";
}

// Ops register while the library loads, in any order.
std::vector<Op>& Registered() {
  static std::vector<Op> registered;
  return registered;
}

}  // namespace

bool Op::Allows(const char* type, DType dtype) const {
  const char* name = TypeName(dtype);
  for (const OpType& known : types) {
    if (std::strcmp(known.name, type) != 0) continue;
    return std::any_of(known.allowed.begin(), known.allowed.end(),
                       [name](const char* allowed) { return std::strcmp(allowed, name) == 0; });
  }
  return std::strcmp(type, name) == 0;
}

const std::vector<Op>& AllOps() { return Registered(); }

OpType FloatTypes(const char* name) { return {name, {"half", "bfloat16", "float", "double"}}; }

OpType ComputeTypes(const char* name) { return {name, {"float", "double"}}; }

OpType RealTypes(const char* name) {
  return {name,
          {"bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "half", "bfloat16",
           "float", "double"}};
}

bool RegisterOp(Op op) {
  Registered().push_back(std::move(op));
  return true;
}

}  // namespace fastneg::ops

// For _ops.so.
extern "C" __attribute__((visibility("default"))) const std::vector<fastneg::ops::Op>* FastnegAllOps() {
  return &fastneg::ops::AllOps();
}
