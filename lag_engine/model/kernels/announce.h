// Asks the system for parts of a mapped file before they are read: each would be waited for alone.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

namespace lag {

inline void announce(int64_t address, int64_t n_bytes) {
    static const int64_t page = sysconf(_SC_PAGESIZE);
    const int64_t start = address / page * page;
    madvise((void*)start, address + n_bytes - start, MADV_WILLNEED);
}

}  // namespace lag
