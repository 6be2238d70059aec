// y = x W for few rows of x, at the speed of reading W once.
//
// Also set: ROWS (tiles of 8 rows of x), COLUMNS (n16 tiles of a warp: 1, 2 or 4), WARPS (of a
// block, each with its own part of K), DEPTH (chunks a warp has on their way), SPLIT (blocks that
// share a tile's K), CLUSTER (they are one cluster and add up through each other's shared memory;
// else `parts` takes their sums and `combine` adds them), BLOCKS (of one multiprocessor), FLOAT_OUT.
//
// EARLY (the kernel may be launched before the one before it has ended, and has that many times DEPTH
// chunks brought into the L2 cache until then; sm_90 and up), AHEAD (x of the
// next chunk is read while this one is worked on).
//
// Every warp streams its own words from global memory to registers; nothing waits for another warp
// before the sums are added, in a fixed order.

#include "common.cuh"
#include "fragments.cuh"
#include "activations.cuh"
#include "streams.cuh"
#include "sums.cuh"

// Register 2 s + p is the pair of values of x that step s multiplies by k = 16 s + 8 p + 2 t of W.
INLINE void load_x(u32 (&x)[ROWS][8], const u16* base, int c, int m, int t, int rows, int K) {
#pragma unroll
  for (int i = 0; i < ROWS; ++i)
#pragma unroll
    for (int run = 0; run < 8; ++run) {
      const int row = m + 8 * i, k = c * CHUNK + 8 * run;
      x[i][run] = 0;
      if (row < rows && k < K) x[i][run] = *reinterpret_cast<const u32*>(base + u64(row) * K + k + 2 * t);
    }
}

INLINE Zeros zeros_at(const Chunk& chunk, int half, int first, int column) {
#if BITS == 4
  return zeros_of(chunk.zeros(half, 0) >> (8 * first), column);
#else
  return zeros_of(chunk.zeros(half, (first + column) >> 1) >> (16 * (first & 1)), (column & 1) * 2);
#endif
}

INLINE void accumulate(float (&sums)[COLUMNS][ROWS][4], const Chunk& chunk,
                       const u32 (&x)[ROWS][8], int first) {
#pragma unroll
  for (int column = 0; column < COLUMNS; ++column) {
    float part[ROWS][4];
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const bool fresh = step % (4 / HALVES) == 0;
      const int half = TWO_GROUPS ? step / 2 : 0;
      const Zeros z = zeros_at(chunk, half, first, column);
      const uint4 v = chunk.words(column * VECTORS + (VECTORS == 2 ? step / 2 : 0));
      const u32 lane_words[4] = {v.x, v.y, v.z, v.w};
      u32 a[4];
      expand(lane_words + (VECTORS == 2 ? (step & 1) * 2 : step), z, a);
#pragma unroll
      for (int i = 0; i < ROWS; ++i) multiply(part[i], a, x[i][2 * step], x[i][2 * step + 1], fresh);
      if (step % (4 / HALVES) == 4 / HALVES - 1) {
        const float2 s = chunk.scales(half, column);
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
#pragma unroll
          for (int r = 0; r < 4; ++r) sums[column][i][r] += (r < 2 ? s.x : s.y) * part[i][r];
      }
    }
  }
}

// Where the sum of output n, row m stands among a warp's fragments.
INLINE int fragment_of(int n, int m) {
  const int r = ((n >> 3) & 1) * 2 + (m & 1);
  return ((n >> 4) * ROWS + (m >> 3)) * 128 + r * 32 + (n & 7) * 4 + ((m & 7) >> 1);
}

// No pointer is __restrict__: the compiler would read x and the weights as if they never changed, and
// so perhaps before the kernel that writes them has ended.
extern "C" __global__ void
#if CLUSTER
__cluster_dims__(1, SPLIT, 1)
#endif
__launch_bounds__(WARPS * 32, BLOCKS)
decode(const u16* x, const uint4* words, const void* scales, const u32* zeros, void* y,
       float* parts, int M, int N, int K, int chunks, int groups) {
  extern __shared__ __align__(16) float shared[];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int tile = blockIdx.x / (4 / COLUMNS), first = blockIdx.x % (4 / COLUMNS) * COLUMNS;
  const int first_row = blockIdx.z * (ROWS * 8), rows = min(M - first_row, ROWS * 8);
  const Weight weight = {words, scales, zeros};
  const u16* base = x + u64(first_row) * K;
  const Activations activations = {base, rows, K};
  const int share = blockIdx.y * WARPS + warp;
  const int begin = int(u64(chunks) * share / (SPLIT * WARPS));
  const int end = int(u64(chunks) * (share + 1) / (SPLIT * WARPS));

#if EARLY
  // Weights may be on their way into the L2 cache while the kernel before this one still runs; they
  // are read only afterwards, for that kernel may have written them.
  constexpr int LINES = COLUMNS * VECTORS * 4;  // of 128 bytes, a warp's part of a chunk
  for (int line = lane; line < EARLY * DEPTH * LINES; line += 32) {
    const int c = begin + line / LINES;
    const uint4* at = words + ((u64(tile) * chunks + c) * 4 + first) * (32 * VECTORS);
    if (c < end) asm volatile("prefetch.global.L2 [%0];" ::"l"(at + line % LINES * 8));
  }
  asm volatile("griddepcontrol.launch_dependents;\n griddepcontrol.wait;" ::: "memory");
#endif
  float sums[COLUMNS][ROWS][4] = {};
  u32 x_here[ROWS][8];
  const int m = lane >> 2, t = lane & 3;
  if (!X_RING && AHEAD && begin < end) load_x(x_here, base, begin, m, t, rows, K);
  Stream stream(weight, activations, tile, first, begin, end, chunks, groups, shared, warp, lane);
  for (int turn = begin; turn < end; turn += UNROLL) {
#pragma unroll
    for (int d = 0; d < UNROLL; ++d) {
      const int c = turn + d;
      if (c >= end) break;
      const Chunk& chunk = stream.wait(d);
      u32 x_next[ROWS][8];
      if (X_RING)
        chunk.read_x(x_here);
      else if (!AHEAD)
        load_x(x_here, base, c, m, t, rows, K);
      else if (c + 1 < end)
        load_x(x_next, base, c + 1, m, t, rows, K);
      accumulate(sums, chunk, x_here, first);
      stream.refill(c, d);
      if (!X_RING && AHEAD)
#pragma unroll
        for (int i = 0; i < ROWS * 8; ++i) x_here[i / 8][i % 8] = x_next[i / 8][i % 8];
    }
  }
  stream.finish();

  float* own = shared + warp * FRAGMENTS;
#pragma unroll
  for (int i = 0; i < COLUMNS * ROWS; ++i)
#pragma unroll
    for (int r = 0; r < 4; ++r) own[i * 128 + r * 32 + lane] = sums[i / ROWS][i % ROWS][r];
  __syncthreads();

  const int count = rows * OUTPUTS, first_output = (blockIdx.x * COLUMNS) * 16;
#if CLUSTER
  // The sums of this block's warps stand in the first warp's place, for the others to read.
  for (int i = threadIdx.x; i < count; i += WARPS * 32) {
    const int at = fragment_of(i % OUTPUTS, i / OUTPUTS);
    float sum = shared[at];
    for (int w = 1; w < WARPS; ++w) sum += shared[w * FRAGMENTS + at];
    shared[at] = sum;
  }
  cluster_barrier();
  for (int i = blockIdx.y * (WARPS * 32) + threadIdx.x; i < count; i += WARPS * 32 * SPLIT) {
    const int n = first_output + i % OUTPUTS, at = fragment_of(i % OUTPUTS, i / OUTPUTS);
    float sum = 0.0f;
#pragma unroll
    for (int rank = 0; rank < SPLIT; ++rank) sum += read_neighbour(shared + at, rank);
    if (n < N) store(y, u64(first_row + i / OUTPUTS) * N + n, sum * UNIT);
  }
  cluster_barrier();
#else
  for (int i = threadIdx.x; i < count; i += WARPS * 32) {
    const int n = first_output + i % OUTPUTS, at = fragment_of(i % OUTPUTS, i / OUTPUTS);
    float sum = shared[at];
    for (int w = 1; w < WARPS; ++w) sum += shared[w * FRAGMENTS + at];
    const u64 out = u64(first_row + i / OUTPUTS) * N + n;
    if (n >= N) continue;
    if (SPLIT > 1)
      parts[u64(blockIdx.y) * M * N + out] = sum;
    else
      store(y, out, sum * UNIT);
  }
#endif
}

#if SPLIT > 1 && !CLUSTER
// Adds the sums of the blocks that shared a tile's K, in the order of K.
extern "C" __global__ void __launch_bounds__(256)
combine(const float* __restrict__ parts, void* __restrict__ y, int count) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= count) return;
  float sum = 0.0f;
#pragma unroll
  for (int part = 0; part < SPLIT; ++part) sum += parts[u64(part) * count + i];
  store(y, i, sum * UNIT);
}
#endif
