// Where idle workers sleep: a counter of events, and a way to wait until it moves on.
#ifndef FASTNEG_CORE_CPU_RUNTIME_PARKING_H_
#define FASTNEG_CORE_CPU_RUNTIME_PARKING_H_

#include <atomic>
#include <cstdint>

#if defined(__linux__) && !defined(FASTNEG_NO_FUTEX)
#define FASTNEG_USE_FUTEX 1
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define FASTNEG_USE_FUTEX 0
#include <pthread.h>
#endif

namespace fastneg::cpu {

class Parking {
 public:
  uint32_t epoch() const { return epoch_.load(std::memory_order_seq_cst); }

  // Sleeps unless the epoch has already moved on from `seen`. May return early without cause.
  void Wait(uint32_t seen) {
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    Sleep(seen);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

  // Ends the current epoch: whoever is about to Wait on it will not sleep.
  void Advance() {
#if FASTNEG_USE_FUTEX
    epoch_.fetch_add(1, std::memory_order_seq_cst);
#else
    pthread_mutex_lock(&mutex_);
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    pthread_mutex_unlock(&mutex_);
#endif
  }

  // Wakes up to `count` sleepers. Costs one load where nobody sleeps.
  void Wake(int count) {
    if (count <= 0 || sleepers_.load(std::memory_order_seq_cst) == 0) return;
#if FASTNEG_USE_FUTEX
    syscall(SYS_futex, &epoch_, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
#else
    for (; count > 0; --count) pthread_cond_signal(&moved_);
#endif
  }

  // For the child after fork: forgets the sleepers, which were threads of the parent.
  void Reset() {
    sleepers_.store(0, std::memory_order_relaxed);
#if !FASTNEG_USE_FUTEX
    mutex_ = PTHREAD_MUTEX_INITIALIZER;
    moved_ = PTHREAD_COND_INITIALIZER;
#endif
  }

 private:
#if FASTNEG_USE_FUTEX
  static_assert(sizeof(std::atomic<uint32_t>) == 4, "A futex is a plain 32-bit word.");

  // The kernel compares the word with `seen` itself, so an Advance between the caller's look and this
  // call is not lost.
  void Sleep(uint32_t seen) { syscall(SYS_futex, &epoch_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0); }
#else
  void Sleep(uint32_t seen) {
    pthread_mutex_lock(&mutex_);
    if (epoch_.load(std::memory_order_relaxed) == seen) pthread_cond_wait(&moved_, &mutex_);
    pthread_mutex_unlock(&mutex_);
  }

  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t moved_ = PTHREAD_COND_INITIALIZER;
#endif

  std::atomic<uint32_t> epoch_{0};
  std::atomic<int32_t> sleepers_{0};
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_RUNTIME_PARKING_H_
