#include "core/cpu/runtime/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/cpu/runtime/num_threads.h"
#include "core/cpu/runtime/parking.h"

namespace fastneg::cpu {
namespace {

// Spins before a thread that waits for a phase gives its processor away: 5 to 30 microseconds.
constexpr int kSpinsBeforeYield = 500;
// Phases of one job; a longer list is run as several jobs.
constexpr int kMaxPhases = 32;
// Jobs at the same time. A caller that finds no free slot works alone.
constexpr int kMaxJobs = 16;
// Each woken worker wakes as many again, so that many workers start in logarithmic time.
constexpr int kWakeFanout = 2;

// What tasks take of a stack, several times over: the default may be less (ulimit -s).
constexpr size_t kStackBytes = size_t{1} << 20;

inline void CpuRelax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("isb");
#endif
}

// A slot for one call. Workers may still look at it after the call has returned, so that the caller never
// waits for them; the slot is used again only when they have left.
class alignas(64) Job {
 public:
  // Owner side: takes the slot, opens it for `num_helpers` workers, and closes it again.
  bool TryAcquire() {
    uint64_t expected = 0;
    return gate_.compare_exchange_strong(expected, kOwned, std::memory_order_acquire, std::memory_order_relaxed);
  }

  void Open(const Phase* phases, int num_phases, void* context, int num_helpers) {
    num_phases_ = num_phases;
    context_ = context;
    num_tasks_ = 0;
    for (int p = 0; p < num_phases; ++p) {
      phases_[p] = phases[p];
      first_task_[p] = num_tasks_;
      num_tasks_ += std::max<int64_t>(phases[p].num_tasks, 0);
    }
    next_.store(0, std::memory_order_relaxed);
    finished_.store(0, std::memory_order_relaxed);
    gate_.store(kOpen | static_cast<uint64_t>(num_helpers) * kTicket, std::memory_order_seq_cst);
  }

  void Close() { gate_.fetch_and(kVisitorMask, std::memory_order_release); }

  // Worker side: false if the slot is not open or has as many workers as it wants.
  bool TryEnter() {
    uint64_t gate = gate_.load(std::memory_order_seq_cst);
    while ((gate & kOpen) != 0 && (gate & kTicketMask) != 0) {
      if (gate_.compare_exchange_weak(gate, gate - kTicket + kVisitor, std::memory_order_acquire)) return true;
    }
    return false;
  }

  void Leave() { gate_.fetch_sub(kVisitor, std::memory_order_release); }

  int WorkersWanted() const {
    const uint64_t gate = gate_.load(std::memory_order_relaxed);
    if ((gate & kOpen) == 0 || next_.load(std::memory_order_relaxed) >= num_tasks_) return 0;
    return static_cast<int>((gate & kTicketMask) / kTicket);
  }

  // Claims and runs tasks until none is left to claim.
  void Work() {
    int phase = 0;
    for (;;) {
      const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
      if (task >= num_tasks_) return;
      while (phase + 1 < num_phases_ && task >= first_task_[phase + 1]) ++phase;
      AwaitFinished(first_task_[phase]);
      phases_[phase].task(context_, phases_[phase].first_index + task - first_task_[phase]);
      finished_.fetch_add(1, std::memory_order_acq_rel);
    }
  }

  void AwaitAll() const { AwaitFinished(num_tasks_); }

  // For the child after fork.
  void Reset() { gate_.store(0, std::memory_order_relaxed); }

 private:
  // gate_: visitors in the low 16 bits, tickets (workers still wanted) in the next 16, then two flags.
  static constexpr uint64_t kVisitor = 1;
  static constexpr uint64_t kVisitorMask = 0xffff;
  static constexpr uint64_t kTicket = uint64_t{1} << 16;
  static constexpr uint64_t kTicketMask = uint64_t{0xffff} << 16;
  static constexpr uint64_t kOpen = uint64_t{1} << 32;
  static constexpr uint64_t kOwned = uint64_t{1} << 33;

  // Tasks of a phase run only when all earlier ones have finished, so the number of finished tasks tells
  // which phase may run.
  void AwaitFinished(int64_t count) const {
    for (int spins = 0; finished_.load(std::memory_order_acquire) < count; ++spins) {
      if (spins < kSpinsBeforeYield) {
        CpuRelax();
      } else {
        sched_yield();
      }
    }
  }

  Phase phases_[kMaxPhases] = {};
  int64_t first_task_[kMaxPhases] = {};
  int num_phases_ = 0;
  int64_t num_tasks_ = 0;
  void* context_ = nullptr;
  // On lines of their own: each is written by all threads.
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int64_t> finished_{0};
  alignas(64) std::atomic<uint64_t> gate_{0};
};

class Pool {
 public:
  // Constant-initialised and never destroyed: workers may run while the process exits.
  constexpr Pool() = default;

  void Run(int num_helpers, const Phase* phases, int num_phases, void* context) {
    Job* job = nullptr;
    for (Job& slot : jobs_) {
      if (slot.TryAcquire()) {
        job = &slot;
        break;
      }
    }
    if (job == nullptr) {
      RunPhases(1, phases, num_phases, context);
      return;
    }
    job->Open(phases, num_phases, context, num_helpers);
    parking_.Advance();
    parking_.Wake(std::min(num_helpers, kWakeFanout));
    if (num_workers_.load(std::memory_order_relaxed) < num_helpers) AddWorkers(num_helpers);
    job->Work();
    job->AwaitAll();
    job->Close();
  }

  int num_workers() const { return num_workers_.load(std::memory_order_relaxed); }

 private:
  void AddWorkers(int wanted);
  static void* WorkerMain(void* pool);
  [[noreturn]] void WorkerLoop();
  static void ResetAfterFork();

  Parking parking_;
  std::atomic<int> num_workers_{0};
  std::atomic<bool> adding_{false};
  bool fork_handler_set_ = false;
  Job jobs_[kMaxJobs];
};

Pool g_pool;

void Pool::AddWorkers(int wanted) {
  // Whoever comes second goes on with the workers there are.
  if (adding_.exchange(true, std::memory_order_acquire)) return;
  if (!fork_handler_set_) {
    fork_handler_set_ = pthread_atfork(nullptr, nullptr, &Pool::ResetAfterFork) == 0;
  }
  // Signals belong to the program's own threads.
  sigset_t all_signals;
  sigset_t callers_signals;
  sigfillset(&all_signals);
  pthread_sigmask(SIG_SETMASK, &all_signals, &callers_signals);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  size_t stack_bytes = 0;
  if (pthread_attr_getstacksize(&attributes, &stack_bytes) == 0 && stack_bytes < kStackBytes) {
    pthread_attr_setstacksize(&attributes, kStackBytes);
  }
  while (fork_handler_set_ && num_workers_.load(std::memory_order_relaxed) < wanted) {
    pthread_t thread;
    if (pthread_create(&thread, &attributes, &Pool::WorkerMain, this) != 0) break;
    num_workers_.fetch_add(1, std::memory_order_relaxed);
  }
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &callers_signals, nullptr);
  adding_.store(false, std::memory_order_release);
}

void* Pool::WorkerMain(void* pool) {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), "fastneg");
#endif
  static_cast<Pool*>(pool)->WorkerLoop();
}

void Pool::WorkerLoop() {
  for (;;) {
    // Read before looking for work: a job opened after the look moves the epoch on, and Wait returns.
    const uint32_t epoch = parking_.epoch();
    bool worked = false;
    for (Job& job : jobs_) {
      if (!job.TryEnter()) continue;
      parking_.Wake(std::min(job.WorkersWanted(), kWakeFanout));
      job.Work();
      job.Leave();
      worked = true;
    }
    if (!worked) parking_.Wait(epoch);
  }
}

// Only the forking thread lives on in the child. It is not inside Run, so no job is either.
void Pool::ResetAfterFork() {
  g_pool.parking_.Reset();
  g_pool.num_workers_.store(0, std::memory_order_relaxed);
  g_pool.adding_.store(false, std::memory_order_relaxed);
  for (Job& job : g_pool.jobs_) job.Reset();
}

}  // namespace

void RunPhases(int num_threads, const Phase* phases, int num_phases, void* context) {
  for (int first = 0; first < num_phases; first += kMaxPhases) {
    const int count = std::min(num_phases - first, kMaxPhases);
    int64_t widest = 0;
    for (int p = 0; p < count; ++p) widest = std::max(widest, phases[first + p].num_tasks);
    const int threads = static_cast<int>(std::min<int64_t>(std::min(num_threads, kMaxThreads), widest));
    if (threads > 1) {
      g_pool.Run(threads - 1, phases + first, count, context);
      continue;
    }
    for (int p = first; p < first + count; ++p) {
      for (int64_t n = 0; n < phases[p].num_tasks; ++n) phases[p].task(context, phases[p].first_index + n);
    }
  }
}

int NumWorkers() { return g_pool.num_workers(); }

}  // namespace fastneg::cpu

namespace fastneg {
namespace {

// Executor::self is the number of threads itself, so that an executor owns nothing.
void RunOnPool(void* self, const Phase* phases, int num_phases, void* context) {
  cpu::RunPhases(static_cast<int>(reinterpret_cast<intptr_t>(self)), phases, num_phases, context);
}

}  // namespace

Executor PoolExecutor(int num_threads) {
  if (num_threads <= 0) num_threads = DefaultNumThreads().count;
  Executor executor;
  executor.self = reinterpret_cast<void*>(static_cast<intptr_t>(num_threads));
  executor.run = &RunOnPool;
  executor.num_threads = num_threads;
  return executor;
}

ThreadDefault DefaultNumThreads() {
  const cpu::ThreadChoice& choice = cpu::DefaultThreads();
  return {choice.count, choice.from_environment, choice.reason};
}

}  // namespace fastneg
