// y = x W for up to 16 rows of x, where a block's part of x fits into its shared memory; 4 bits.
//
// A block brings x into shared memory once and goes over several units of OUTPUTS output features with it, in
// stages of two chunks of K. Its first unit's stages are dealt out to its warps, and each brings the stage's x
// with the weights; from then on all of x is there for all of them. The units that are left are one line of
// stages, of which every warp has an equal stretch, wherever units begin and end: the warps meet again at the end.
//
// Also set: ROWS (tiles of 8 rows of x: 1 or 2), COLUMNS (n16 tiles of a unit: 1, 2 or 4), WARPS (of a block), DEPTH
// (stages a warp has on their way), SPLIT (blocks of a cluster, that share K), FLOAT_OUT, EARLY as in
// decode.cu. GROUP is 0 or a multiple of 64, SCALE not fp32.

#define CLUSTER (SPLIT > 1)
#include "common.cuh"
#include "fragments.cuh"
#include "activations.cuh"
#include "sums.cuh"

constexpr int THREADS = WARPS * 32;
constexpr int UNITS_OF_TILE = 4 / COLUMNS;
constexpr int PARTS = GROUP % 128 ? 2 : 1;  // groups of a stage
constexpr int WORD_BYTES = 2 * COLUMNS * 512;
constexpr int SCALE_BYTES = 128, ZERO_BYTES = 32;  // of a tile's group
constexpr int GROUP_BYTES = SCALE_BYTES + ZERO_BYTES;
constexpr int SLOT = WORD_BYTES + PARTS * GROUP_BYTES;
static_assert(DEPTH * SLOT >= FRAGMENTS * 4, "a warp's ring takes its last sums");

// Where a warp stands: a unit of its block, and a stage of the block's part of K.
struct Place {
  int unit, stage;

  // Whether a unit ends with this step.
  INLINE bool step(int length) {
    const bool end = ++stage == length;
    if (end) stage = 0, ++unit;
    return end;
  }
};

// What a block works on.
struct Share {
  const uint4* words;
  const char *scales, *zeros;
  Activations x;
  int chunks, groups, first_unit, first_stage, length;

  // A lane's first words of a unit's part of a stage.
  INLINE const uint4* words_at(const Place& at, int lane) const {
    const int unit = first_unit + at.unit;
    const u64 chunk = u64(unit / UNITS_OF_TILE) * chunks + 2 * (first_stage + at.stage);
    return words + (chunk * 4 + unit % UNITS_OF_TILE * COLUMNS) * 32 + lane;
  }

  // The last stage may have one chunk.
  INLINE bool has_second_chunk(int stage) const { return 2 * (first_stage + stage) + 1 < chunks; }

  INLINE int first_column(int unit) const { return (first_unit + unit) % UNITS_OF_TILE * COLUMNS; }
};

// A warp's stages on their way: first those it was dealt of the first unit, then its stretch of the line.
struct Ring {
  const Share& share;
  char *slots, *x;
  int lane, dealt, left, slot;
  Place filling, line_begin;
  const uint4* next;

  INLINE Ring(const Share& share, char* slots, char* x, int warp, int lane, int from, int to)
      : share(share), slots(slots), x(x), lane(lane), dealt((share.length - warp + WARPS - 1) / WARPS),
        left(to - from), slot(0), line_begin({1 + from / share.length, from % share.length}) {
    filling = dealt > 0 ? Place{0, warp} : line_begin;
    next = share.words_at(filling, lane);
    for (int d = 0; d < DEPTH; ++d) fill(slots + d * SLOT);
  }

  INLINE const char* wait() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 1) : "memory");
    __syncwarp();  // other lanes copied a part
    return slots + slot * SLOT;
  }

  INLINE void refill() {
    __syncwarp();
    fill(slots + slot * SLOT);
    slot = slot + 1 == DEPTH ? 0 : slot + 1;
  }

  INLINE void fill(char* to) {
    if (dealt > 0 || left > 0) {
      bring_weights(u32(__cvta_generic_to_shared(to)));
      if (dealt > 0) {
#pragma unroll
        for (int h = 0; h < 2; ++h)
          bring_x<true>(x + (filling.stage * 2 + h) * X_BYTES, share.x,
                        (share.first_stage + filling.stage) * 2 + h, lane);
        filling.stage += WARPS;
        if (--dealt == 0) filling = line_begin;
        next = share.words_at(filling, lane);
      } else {
        --left;
        next += 256;
        if (filling.step(share.length)) next = share.words_at(filling, lane);
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  INLINE void bring_weights(u32 to) const {
    const bool second = share.has_second_chunk(filling.stage);
#pragma unroll
    for (int i = 0; i < 2 * COLUMNS; ++i) {
      const bool there = i < COLUMNS || second;
      asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to + (i * 32 + lane) * 16),
                   "l"(there ? next + (i / COLUMNS * 4 + i % COLUMNS) * 32 : share.words), "r"(there ? 16 : 0)
                   : "memory");
    }
    const int part = lane >> 4, at = (lane & 15) * 16;
    if (at >= GROUP_BYTES || part >= PARTS) return;
    const int tile = (share.first_unit + filling.unit) / UNITS_OF_TILE;
    const int k = (share.first_stage + filling.stage) * 128 + part * 64;
    const u64 row = u64(tile) * share.groups + min(group_of(k), share.groups - 1);
    const char* const from = at < SCALE_BYTES ? share.scales + row * SCALE_BYTES + at
                                              : share.zeros + row * ZERO_BYTES + at - SCALE_BYTES;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + WORD_BYTES + part * GROUP_BYTES + at),
                 "l"(from) : "memory");
  }
};

// The products of a stage whose weights stand in `slot`.
INLINE void accumulate(float (&sums)[COLUMNS][ROWS][4], const char* slot, const char* x, int first, int lane) {
  float part[COLUMNS][ROWS][4];
  const int g = lane >> 2;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const bool begins = h == 0 || PARTS == 2, ends = h == 1 || PARTS == 2;  // a group
    const char* const of_group = slot + WORD_BYTES + (PARTS == 2 ? h : 0) * GROUP_BYTES;
    const u32 zeros = reinterpret_cast<const u32*>(of_group + SCALE_BYTES)[g] >> (8 * first);
    u32 fragments[ROWS][8];
    read_fragments(x + h * X_BYTES, lane, fragments);
#pragma unroll
    for (int column = 0; column < COLUMNS; ++column) {
      const uint4 v = reinterpret_cast<const uint4*>(slot)[(h * COLUMNS + column) * 32 + lane];
      const u32 words[4] = {v.x, v.y, v.z, v.w};
      const Zeros z = zeros_of(zeros, column);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        u32 a[4];
        expand(words + step, z, a);
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
          multiply(part[column][i], a, fragments[i][2 * step], fragments[i][2 * step + 1], begins && step == 0);
      }
    }
    if (!ends) continue;
#pragma unroll
    for (int column = 0; column < COLUMNS; ++column) {
      const float2 s = pair_of_scales(reinterpret_cast<const u32*>(of_group)[g * 4 + first + column]);
#pragma unroll
      for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int r = 0; r < 4; ++r) sums[column][i][r] += (r < 2 ? s.x : s.y) * part[column][i][r];
    }
  }
}

// The sum of fragment f of a unit: which output and row it is, written in one place of y.
INLINE void store_fragment(void* y, int f, int unit, int rows, int N, float value) {
  const int lane = f & 31, r = f >> 5 & 3, square = f >> 7;
  const int n = unit * OUTPUTS + square / ROWS * 16 + (r >> 1) * 8 + (lane >> 2);
  const int m = square % ROWS * 8 + (lane & 3) * 2 + (r & 1);
  if (n < N && m < rows) store(y, u64(m) * N + n, value * UNIT);
}

// A warp's sums put into shared memory, and zero afterwards.
INLINE void put(float* to, float (&sums)[COLUMNS][ROWS][4], int lane) {
#pragma unroll
  for (int i = 0; i < COLUMNS * ROWS * 4; ++i) {
    float& sum = sums[i / (ROWS * 4)][i / 4 % ROWS][i % 4];
    to[i * 32 + lane] = sum;
    sum = 0.0f;
  }
}

#if EARLY
// The block's first unit may be on its way into the L2 cache while the kernel before this one still runs.
INLINE void prefetch(const Share& share, int warp, int lane) {
  constexpr int LINES = COLUMNS * 4;  // of 128 bytes, in a unit's part of a chunk
  for (int stage = warp; stage < share.length; stage += WARPS)
    if (lane < LINES || (lane < 2 * LINES && share.has_second_chunk(stage)))
      asm volatile("prefetch.global.L2 [%0];" ::"l"(share.words_at({0, stage}, 0) + lane / LINES * 128 +
                                                    lane % LINES * 8));
  asm volatile("griddepcontrol.launch_dependents;\n griddepcontrol.wait;" ::: "memory");
}
#endif

extern "C" __global__ void
#if CLUSTER
__cluster_dims__(1, SPLIT, 1)
#endif
__launch_bounds__(THREADS, 1)
resident(const u16* x, const uint4* words, const char* scales, const char* zeros, void* y,
         int rows, int N, int K, int chunks, int groups, int units, int blocks) {
  extern __shared__ __align__(128) char shared[];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int stages = (chunks + 1) / 2, longest = (stages + SPLIT - 1) / SPLIT;
  const int first_stage = stages * int(blockIdx.y) / SPLIT, first_unit = units * int(blockIdx.x) / blocks;
  const int length = stages * int(blockIdx.y + 1) / SPLIT - first_stage;
  const int count = units * int(blockIdx.x + 1) / blocks - first_unit;
  const int line = (count - 1) * length, from = line * warp / WARPS, to = line * (warp + 1) / WARPS;
  const Share share = {words, scales, zeros, {x, rows, K}, chunks, groups, first_unit, first_stage, length};

  char* const rings = shared + longest * 2 * X_BYTES;
  float* const heads = reinterpret_cast<float*>(rings + WARPS * DEPTH * SLOT);
  float* const totals = heads + WARPS * FRAGMENTS;
  const auto finish = [&](int unit, int f, float sum) {
    if (CLUSTER)
      totals[unit * FRAGMENTS + f] = sum;
    else
      store_fragment(y, f, first_unit + unit, rows, N, sum);
  };

#if EARLY
  prefetch(share, warp, lane);
#endif
  Ring ring(share, rings + warp * DEPTH * SLOT, shared, warp, lane, from, to);
  float sums[COLUMNS][ROWS][4] = {};
  for (int stage = warp; stage < length; stage += WARPS) {
    accumulate(sums, ring.wait(), shared + stage * 2 * X_BYTES, share.first_column(0), lane);
    ring.refill();
  }
  put(heads + warp * FRAGMENTS, sums, lane);
  __syncthreads();
  for (int f = threadIdx.x; f < FRAGMENTS; f += THREADS) {
    float sum = heads[f];
#pragma unroll
    for (int w = 1; w < WARPS; ++w) sum += heads[w * FRAGMENTS + f];
    finish(0, f, sum);
  }
  if (count > 1) __syncthreads();

  Place here = ring.line_begin;
  bool whole = here.stage == 0;
  for (int i = from; i < to; ++i) {
    const int unit = here.unit;
    accumulate(sums, ring.wait(), shared + here.stage * 2 * X_BYTES, share.first_column(unit), lane);
    ring.refill();
    if (!here.step(length)) continue;
    if (!whole) {
      put(heads + warp * FRAGMENTS, sums, lane);
    } else {
#pragma unroll
      for (int f = 0; f < COLUMNS * ROWS * 4; ++f) {
        float& sum = sums[f / (ROWS * 4)][f / 4 % ROWS][f % 4];
        finish(unit, f * 32 + lane, sum);
        sum = 0.0f;
      }
    }
    whole = true;
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncwarp();
  if (here.stage != 0) put(reinterpret_cast<float*>(ring.slots), sums, lane);
  __syncthreads();

  // Units that warps shared: all but the last of them left the sums in their rings.
  for (int unit = 0; unit < count - 1; ++unit) {
    const int one = ((unit * length + 1) * WARPS - 1) / line, last = ((unit + 1) * length * WARPS - 1) / line;
    if (one == last) continue;
    for (int f = threadIdx.x; f < FRAGMENTS; f += THREADS) {
      float sum = 0.0f;
      for (int w = one; w < last; ++w) sum += reinterpret_cast<const float*>(rings + w * DEPTH * SLOT)[f];
      finish(1 + unit, f, sum + heads[last * FRAGMENTS + f]);
    }
  }
#if CLUSTER
  cluster_barrier();
  for (int at = blockIdx.y * THREADS + threadIdx.x; at < count * FRAGMENTS; at += THREADS * SPLIT) {
    float sum = 0.0f;
#pragma unroll
    for (int rank = 0; rank < SPLIT; ++rank) sum += read_neighbour(totals + at, rank);
    store_fragment(y, at % FRAGMENTS, first_unit + at / FRAGMENTS, rows, N, sum);
  }
  cluster_barrier();  // no block ends while another reads its shared memory
#endif
}
