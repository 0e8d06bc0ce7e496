// How many threads fastneg uses when nobody says otherwise, and why.
#ifndef FASTNEG_CORE_CPU_RUNTIME_NUM_THREADS_H_
#define FASTNEG_CORE_CPU_RUNTIME_NUM_THREADS_H_

namespace fastneg::cpu {

// No job uses more threads than this, whatever was asked for.
constexpr int kMaxThreads = 256;

struct ThreadChoice {
  int count = 1;
  bool from_environment = false;  // Asked for by FASTNEG_NUM_THREADS, not found out.
  char reason[192] = "";          // "FASTNEG_NUM_THREADS", "2 processors in the affinity mask", ...
};

// FASTNEG_NUM_THREADS if it is a positive integer; else the smaller of the processors in the affinity mask
// and the CPU quota of the control group, rounded up. Decided once in a process, at the first call.
const ThreadChoice& DefaultThreads();

// The decision itself. `requested` is the value of FASTNEG_NUM_THREADS or null, `processors` and `quota`
// are the two limits; a quota of 0 stands for none.
ThreadChoice ChooseThreads(const char* requested, int processors, double quota);

// Processors that this process may run on.
int AffinityProcessors();

// The tightest CPU quota, in processors, of the control groups (version 1 or 2) that `proc_cgroup` (as
// /proc/self/cgroup) lists, among them and their parents under `mount` (as /sys/fs/cgroup). 0: no limit.
double CgroupQuota(const char* proc_cgroup, const char* mount);

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_RUNTIME_NUM_THREADS_H_
