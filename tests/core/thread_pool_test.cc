// The thread pool: every task once, phases in order, many callers, fork, and sleeping workers.
#include "core/cpu/runtime/thread_pool.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

#include "tests/core/check.h"

// The thread sanitizer and qemu-user do not support new threads after a fork.
#if defined(__SANITIZE_THREAD__) || defined(FASTNEG_UNDER_QEMU)
#define FASTNEG_NO_FORKS 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FASTNEG_NO_FORKS 1
#endif
#endif

namespace fastneg::cpu {
namespace {

// Phase p adds 1 to each element of values[0 .. sizes[p]) and checks that the phases before it have
// finished. Plain memory, so that the thread sanitizer sees a missing barrier.
struct Ladder {
  std::vector<int64_t> sizes;
  std::vector<std::vector<int>> counts;
};

template <int kPhase>
void Step(void* context, int64_t index) {
  Ladder* ladder = static_cast<Ladder*>(context);
  ++ladder->counts[kPhase][static_cast<size_t>(index)];
  if (kPhase > 0) {
    for (int count : ladder->counts[kPhase > 0 ? kPhase - 1 : 0]) FASTNEG_CHECK(count == 1);
  }
}

void RunLadder(int num_threads, std::vector<int64_t> sizes) {
  Ladder ladder;
  ladder.sizes = sizes;
  for (int64_t size : sizes) ladder.counts.emplace_back(static_cast<size_t>(size), 0);
  const Phase phases[] = {{sizes[0], &Step<0>}, {sizes[1], &Step<1>}, {sizes[2], &Step<2>}, {sizes[3], &Step<3>}};
  RunPhases(num_threads, phases, 4, &ladder);
  for (const auto& counts : ladder.counts) {
    for (int count : counts) FASTNEG_CHECK(count == 1);
  }
}

void TestEveryTaskOnceInOrder() {
  for (int threads : {1, 2, 3, 8, 1000}) {
    for (int repeat = 0; repeat < 200; ++repeat) {
      RunLadder(threads, {16, 1, 33, 7});
      RunLadder(threads, {0, 5, 0, 2});
      RunLadder(threads, {0, 0, 0, 0});
      RunLadder(threads, {1, 1, 1, 1});
    }
  }
}

void TestNoPhases() { RunPhases(4, nullptr, 0, nullptr); }

void TestMorePhasesThanOneJobHolds() {
  constexpr int kPhases = 100;
  std::vector<Phase> phases(kPhases);
  for (Phase& phase : phases) {
    phase.num_tasks = 3;
    phase.task = [](void* context, int64_t index) { ++static_cast<int*>(context)[index]; };
  }
  int counts[3] = {};
  RunPhases(2, phases.data(), kPhases, counts);
  for (int count : counts) FASTNEG_CHECK(count == kPhases);
}

void TestManyCallers() {
  std::vector<std::thread> callers;
  for (int i = 0; i < 20; ++i) {
    callers.emplace_back([] {
      for (int repeat = 0; repeat < 50; ++repeat) RunLadder(4, {8, 3, 16, 1});
    });
  }
  for (std::thread& caller : callers) caller.join();
}

void TestCallFromInsideTask() {
  std::atomic<int> ladders{0};
  const Phase outer = {6, [](void* context, int64_t) {
                         RunLadder(4, {5, 4, 3, 2});
                         static_cast<std::atomic<int>*>(context)->fetch_add(1);
                       }};
  RunPhases(3, &outer, 1, &ladders);
  FASTNEG_CHECK(ladders.load() == 6);
}

// All workers are held up by one caller; another one must still get through, alone.
void TestBusyWorkersDelayNobody() {
  struct Hold {
    std::atomic<int> arrived{0};
    std::atomic<bool> released{false};
  } hold;
  const int num_threads = std::max(NumWorkers() + 1, 2);
  std::thread holder([&] {
    const Phase phase = {num_threads, [](void* context, int64_t) {
                           Hold* hold = static_cast<Hold*>(context);
                           hold->arrived.fetch_add(1);
                           while (!hold->released.load()) std::this_thread::yield();
                         }};
    RunPhases(num_threads, &phase, 1, &hold);
  });
  while (hold.arrived.load() < num_threads) std::this_thread::yield();
  RunLadder(num_threads, {16, 1, 33, 7});
  hold.released.store(true);
  holder.join();
}

double ProcessorSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void TestIdleWorkersSleep() {
  RunLadder(4, {16, 16, 16, 16});
  usleep(20'000);  // The workers of that job may still be on their way to bed.
  const double before = ProcessorSeconds();
  usleep(300'000);
  FASTNEG_CHECK(ProcessorSeconds() - before < 0.03);
}

void TestFork() {
#ifdef FASTNEG_NO_FORKS
  std::puts("fork: skipped under the thread sanitizer and qemu-user");
#else
  RunLadder(4, {16, 1, 33, 7});
  FASTNEG_CHECK(NumWorkers() >= 3);
  for (int generation = 0; generation < 3; ++generation) {
    const pid_t child = fork();
    FASTNEG_CHECK(child >= 0);
    if (child == 0) {
      FASTNEG_CHECK(NumWorkers() == 0);
      for (int repeat = 0; repeat < 100; ++repeat) RunLadder(4, {16, 1, 33, 7});
      FASTNEG_CHECK(NumWorkers() == 3);
      _exit(0);
    }
    int status = 1;
    FASTNEG_CHECK(waitpid(child, &status, 0) == child);
    FASTNEG_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    RunLadder(4, {16, 1, 33, 7});
  }
#endif
}

// A child that is forked while other threads of the parent are in the middle of jobs.
void TestForkDuringJobs() {
#ifndef FASTNEG_NO_FORKS
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop.load()) RunLadder(4, {8, 8, 8, 8});
  });
  for (int i = 0; i < 20; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      for (const char* p = "12345678"; *p != '\0'; ++p) {
        int counts[4] = {};
        const Phase phase = {4, [](void* context, int64_t index) { ++static_cast<int*>(context)[index]; }};
        RunPhases(4, &phase, 1, counts);
        for (int count : counts) FASTNEG_CHECK(count == 1);
      }
      _exit(0);
    }
    int status = 1;
    FASTNEG_CHECK(waitpid(child, &status, 0) == child);
    FASTNEG_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  stop.store(true);
  busy.join();
#endif
}

}  // namespace
}  // namespace fastneg::cpu

int main() {
  using namespace fastneg::cpu;
  alarm(120);  // A deadlock fails instead of hanging.
  TestEveryTaskOnceInOrder();
  TestNoPhases();
  TestMorePhasesThanOneJobHolds();
  TestManyCallers();
  TestCallFromInsideTask();
  TestBusyWorkersDelayNobody();
  TestIdleWorkersSleep();
  TestFork();
  TestForkDuringJobs();
}
