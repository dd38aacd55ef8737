// Waits that are left out on purpose: their kinds, and which of them are meant.
#pragma once

#include <string>

#include "streams.h"

namespace simgpu::skip {

// The kind of a stream's wait, by what the other stream did last and by what comes next.
std::string kind_of(Work before, Work next);

// Whether a wait of this kind is one that SIMGPU_SKIP_WAIT means; counts it.
bool is_left_out(const std::string& kind);

}  // namespace simgpu::skip
