// What the operator hands to a neuron's kernel, and how its work is cut. No header of PyTorch's, and none of the standard
// library's that takes long: a kernel is compiled when a user first calls it.
//
// A tile is a run of neighbouring neurons whose states stay in cache while time passes. Numbers repeat with a period (the
// batch is a number of repeats of it), so a tile walks over the repeats and sums the numbers' gradients on the way: in the
// lanes' type over a few steps, then in double.
#pragma once

#include <cstdint>

namespace lnm {

constexpr int64_t kTile = 1024;       // neurons per tile at most
constexpr int64_t kNarrowTile = 128;  // neurons of a group that are worth tiles of its own
constexpr int64_t kMixedTile = 256;   // where every vector has numbers and sums of its own in cache

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

// How flat neuron indices map to groups, each with numbers of its own, and how the work is cut. Depends on sizes only,
// never on the number of threads, so that sums are always added in the same order. (plan.h makes it.)
struct Plan {
  int64_t steps, neurons, inner, groups;
  int64_t width, span, per_span;  // of a tile; what tiles do not straddle, and how many it takes
  int64_t period, repeats, tiles, chunks, local_groups;
  bool uniform;  // every tile lies within one group
  bool holds;    // the input is one step, the same at each

  int64_t group(int64_t neuron) const { return neuron / inner % groups; }
  int64_t input_row(int64_t t) const { return holds ? 0 : t * neurons; }
  int64_t items() const { return tiles * chunks; }
  int64_t ahead() const { return larger(1, 512 / width); }  // rows, for prefetching
};

struct Tile {
  int64_t index, start, width, first_repeat, last_repeat;

  Tile(const Plan& p, int64_t item) : index(item) {
    const int64_t tile = item % p.tiles, chunk = item / p.tiles, within = tile % p.per_span * p.width;
    start = tile / p.per_span * p.span + within;
    width = smaller(p.width, p.span - within);
    first_repeat = p.repeats * chunk / p.chunks;
    last_repeat = p.repeats * (chunk + 1) / p.chunks;
  }
};

// Rows of a tensor; one that `streams` is written past the caches.
struct Target {
  void* data;
  bool streams;
};

struct Pass {
  Plan plan;
  const double* constants;
  const void* const* numbers;  // each with one value for the layer, or one for each group
  const bool* many;            // which it is
  const void* x;               // null where nothing asks for it
  const void* const* states;   // before the first step; null where all zero
  // Forward.
  Target spikes, h;    // h is null where nobody keeps it
  void* const* last;   // states after the last step; null where not wanted
  // Backward; null where the loss does not reach, or nobody asks.
  const void *kept, *d_spikes, *d_h;
  const void* const* d_last;
  Target d_x;
  void* const* d_states;
  double* sums;  // [items, local_groups, the neuron's columns]
};

}  // namespace lnm
