#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_host {
namespace {

constexpr unsigned int kWarp = 32;
constexpr size_t kStackBytes = 256 << 10;

// Something that several fibers wait for: it has come when the count has moved on.
struct Gathering {
  unsigned int arrived = 0;  // Threads, or a mask of lanes.
  unsigned int count = 0;    // Of times that all have come together.
};

struct Warp {
  Gathering gathering;
  const char* operation = nullptr;
  unsigned int mask = 0;
  uint64_t given[kWarp];
  uint64_t results[2][kWarp];  // By turns: a lane may be slow to read while others go on to the next exchange.
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  bool done = true;
  const Gathering* awaited = nullptr;
  unsigned int awaited_count = 0;
  void* fake_stack = nullptr;
};

struct Device {
  unsigned int order = 0;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Gathering barrier;
  unsigned int alive = 0;
  unsigned int current = 0;
  ucontext_t scheduler;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  void (*thread)(void*) = nullptr;
  void* context = nullptr;
};

Device device;

[[noreturn]] void Fail(const char* what, const char* operation) {
  std::fprintf(stderr, "cuda_on_host: block %u, thread %u: %s %s\n", blockIdx.x, threadIdx.x, what, operation);
  std::abort();
}

void ToScheduler(bool for_good) {
  Fiber& fiber = device.fibers[device.current];
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, device.scheduler_stack,
                                 device.scheduler_stack_bytes);
#endif
  if (for_good) {
    setcontext(&device.scheduler);
  } else {
    swapcontext(&fiber.context, &device.scheduler);
  }
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &device.scheduler_stack, &device.scheduler_stack_bytes);
#endif
}

void ToFiber(unsigned int index) {
  Fiber& fiber = device.fibers[index];
  device.current = index;
  threadIdx.x = index;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&device.scheduler_fake_stack, fiber.stack.get(), kStackBytes);
#endif
  swapcontext(&device.scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(device.scheduler_fake_stack, nullptr, nullptr);
#endif
}

void ReleaseBarrier() {
  if (device.barrier.arrived < device.alive) return;
  device.barrier.arrived = 0;
  ++device.barrier.count;
}

void FiberMain() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &device.scheduler_stack, &device.scheduler_stack_bytes);
#endif
  device.thread(device.context);
  device.fibers[device.current].done = true;
  --device.alive;
  if (device.alive > 0) ReleaseBarrier();
  ToScheduler(true);
}

void WaitFor(const Gathering& gathering, unsigned int count) {
  Fiber& fiber = device.fibers[device.current];
  fiber.awaited = &gathering;
  fiber.awaited_count = count;
  while (gathering.count == count) ToScheduler(false);
  fiber.awaited = nullptr;
}

void RunBlock(unsigned int threads, std::mt19937* random) {
  device.alive = threads;
  device.barrier = {};
  device.warps.assign((threads + kWarp - 1) / kWarp, {});
  std::vector<unsigned int> turns(threads);
  for (unsigned int t = 0; t < threads; ++t) {
    turns[t] = t;
    Fiber& fiber = device.fibers[t];
    fiber.done = false;
    fiber.awaited = nullptr;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, FiberMain, 0);
  }
  if (device.order != 0) std::shuffle(turns.begin(), turns.end(), *random);
  while (device.alive > 0) {
    bool any = false;
    for (const unsigned int t : turns) {
      const Fiber& fiber = device.fibers[t];
      if (fiber.done || (fiber.awaited != nullptr && fiber.awaited->count == fiber.awaited_count)) continue;
      any = true;
      ToFiber(t);
    }
    if (!any) Fail("no thread can go on; a warp is at", device.warps[0].operation ? device.warps[0].operation : "none");
  }
}

cudaError_t refusal = cudaSuccess;

void* hidden = nullptr;
size_t hidden_bytes = 0;

std::atomic<int> waits{0};

void SetAccess(int protection) {
  if (hidden != nullptr && mprotect(hidden, hidden_bytes, protection) != 0) std::abort();
}

}  // namespace

void SetHidden(void* memory, size_t bytes) {
  SetAccess(PROT_READ | PROT_WRITE);
  hidden = memory;
  hidden_bytes = bytes;
  SetAccess(PROT_NONE);
}

Access::Access() { SetAccess(PROT_READ | PROT_WRITE); }
Access::~Access() { SetAccess(PROT_NONE); }

void CountWait() { ++waits; }

void SetOrder(unsigned int order) { device.order = order; }

cudaError_t TakeRefusal() { return std::exchange(refusal, cudaSuccess); }

unsigned int Lane() { return threadIdx.x % kWarp; }

void Barrier() {
  const unsigned int count = device.barrier.count;
  ++device.barrier.arrived;
  ReleaseBarrier();
  WaitFor(device.barrier, count);
}

const uint64_t* Exchange(unsigned int mask, uint64_t value, const char* operation) {
  const unsigned int thread = threadIdx.x;
  Warp& warp = device.warps[thread / kWarp];
  const unsigned int lane = thread % kWarp;
  if ((mask >> lane & 1) == 0) Fail("the mask leaves the lane itself out of", operation);
  if (warp.gathering.arrived == 0) {
    warp.operation = operation;
    warp.mask = mask;
  }
  if (warp.mask != mask || std::strcmp(warp.operation, operation) != 0) Fail("lanes of a warp differ at", operation);
  warp.given[lane] = value;
  warp.gathering.arrived |= 1u << lane;
  const unsigned int count = warp.gathering.count;
  uint64_t* results = warp.results[count % 2];
  if (warp.gathering.arrived == mask) {
    std::copy(warp.given, warp.given + kWarp, results);
    warp.gathering.arrived = 0;
    ++warp.gathering.count;
  } else {
    WaitFor(warp.gathering, count);
  }
  return results;
}

void RunGrid(unsigned int blocks, unsigned int threads, void (*thread)(void* context), void* context) {
  // TensorFlow may launch from several threads.
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  const Access access;
  device.thread = thread;
  device.context = context;
  if (device.fibers.size() < threads) device.fibers.resize(threads);
  gridDim.x = blocks;
  blockDim.x = threads;
  std::mt19937 random(device.order);
  std::vector<unsigned int> turns(blocks);
  for (unsigned int b = 0; b < blocks; ++b) turns[b] = b;
  if (device.order != 0) std::shuffle(turns.begin(), turns.end(), random);
  for (const unsigned int b : turns) {
    blockIdx.x = b;
    RunBlock(threads, &random);
  }
}

}  // namespace cuda_on_host

extern "C" __attribute__((visibility("default"))) void FastnegCudaOnHostSetOrder(unsigned int order) {
  cuda_on_host::SetOrder(order);
}

extern "C" __attribute__((visibility("default"))) void FastnegCudaOnHostRefuseNextLaunch() {
  cuda_on_host::refusal = cudaErrorNoKernelImageForDevice;
}

extern "C" __attribute__((visibility("default"))) void FastnegCudaOnHostSetHidden(void* memory, size_t bytes) {
  cuda_on_host::SetHidden(memory, bytes);
}

// How often the host has waited for the device.
extern "C" __attribute__((visibility("default"))) int FastnegCudaOnHostNumWaits() { return cuda_on_host::waits; }
