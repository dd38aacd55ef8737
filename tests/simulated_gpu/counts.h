// What a step costs besides arithmetic: launches, waits of the host, bytes between host and card.
//
// SIMGPU_COUNTS names a file that gets a line of JSON for each step of each card. A step ends where numbers set out for
// the host in pinned memory without the host waiting for them, as a step's loss and norm do; each line covers what came
// since the last, so that the first holds the set-up too, and a wait for a step's numbers stands with the step that has
// been launched meanwhile. `launches` are kernels and copies on a card; copies between host and card, collectives,
// sends and receives are apart. `learnt` counts calls in which the simulation alone waited, to learn the shapes of
// results: the first steps have them, later ones only where shapes change. The host's waits are listed by kind: event,
// stream, device, copy to the host, copy to the device (both without pinned memory, or asked to block), or the operator
// whose result the host needs.
#pragma once

#include <cstddef>
#include <string>

namespace simgpu::counts {

void launched(int device);
void learnt(int device);
void waited(int device, const std::string& kind);
void copied_to_device(int device, bool is_pinned, size_t n_bytes);
void copied_to_host(int device, bool is_pinned, size_t n_bytes);
void collective(int device);
void link(int device);
// The end of a step.
void step(int device);

}  // namespace simgpu::counts
