#include "ops/runtime.h"

#include <atomic>
#include <string>

namespace fastneg::ops {
namespace {

std::atomic<int> g_intra_op_threads{0};

// Whether TensorFlow's setting is what limits the number of threads.
bool LimitedByIntraOp(int* intra_op) {
  const ThreadDefault found = DefaultNumThreads();
  *intra_op = g_intra_op_threads.load(std::memory_order_relaxed);
  return !found.requested && *intra_op > 0 && *intra_op < found.count;
}

const char* NumThreadsReason() {
  int intra_op;
  return LimitedByIntraOp(&intra_op) ? "TensorFlow's intra_op_parallelism_threads" : DefaultNumThreads().reason;
}

}  // namespace

bool RuntimeIsUsable(KernelContext& context) {
  const char* isa = UnavailableRequestedIsa();
  if (isa == nullptr) return true;
  std::string message = "FASTNEG_ISA must name an instruction set that this build and this machine have, one of";
  const char* separator = " ";
  for (const char* const* name = AvailableIsas(); *name != nullptr; ++name) {
    message += separator + std::string(*name);
    separator = ", ";
  }
  context.Fail(ErrorCode::kFailedPrecondition, message + ". Received: " + isa + ".");
  return false;
}

int NumThreads() {
  int intra_op;
  return LimitedByIntraOp(&intra_op) ? intra_op : DefaultNumThreads().count;
}

}  // namespace fastneg::ops

// For Python (ctypes).
#define FASTNEG_EXPORT extern "C" __attribute__((visibility("default")))

// TensorFlow's intra_op_parallelism_threads; 0 if it is not set. The C API hands the session's configuration
// to kernels too, but reading it crashes in kernels that constant folding runs, outside any session.
FASTNEG_EXPORT void FastnegSetIntraOpThreads(int num_threads) {
  fastneg::ops::g_intra_op_threads.store(num_threads, std::memory_order_relaxed);
}

FASTNEG_EXPORT int FastnegNumThreads() { return fastneg::ops::NumThreads(); }

// Where that number comes from: "FASTNEG_NUM_THREADS", "2 processors in the affinity mask", ...
FASTNEG_EXPORT const char* FastnegNumThreadsReason() { return fastneg::ops::NumThreadsReason(); }

FASTNEG_EXPORT const char* FastnegActiveIsa() { return fastneg::ActiveIsa(); }

// Null-terminated, weakest first.
FASTNEG_EXPORT const char* const* FastnegAvailableIsas() { return fastneg::AvailableIsas(); }

// The value of FASTNEG_ISA if it names nothing available, else null.
FASTNEG_EXPORT const char* FastnegUnavailableRequestedIsa() { return fastneg::UnavailableRequestedIsa(); }
