// y = x W, or dX = dY W^T (BACKWARD), for many rows of x, by Hopper's wgmma (sm_90a).
//
// The weight is the left operand: its packed words go from global to shared memory, are expanded in
// registers and multiplied from there. So the product is transposed: its rows are W's output features
// (BACKWARD: its input features), its columns the rows of x. The sum runs over pieces of 64.
//
// Also set: M_TILE (rows of x of a block: 16, 32, 64, 128), WARPGROUPS (that multiply, each two pieces of
// 64 rows of the product), STAGES (pieces of the sum in flight), CLUSTER (blocks that share x: 1 or 2),
// EARLY (may be launched before the kernel before it has ended). BITS is 4.
//
// Every cluster has an equal share of all pieces of all tiles ("stream-K"). A tile whose sum is shared by
// several clusters is finished by the one that has its beginning; the others leave their sums in `parts`
// and raise a flag. A cluster waits only for clusters of lower index, which were started before it, so
// that all end even where not all fit on the GPU at once; and it lowers the flags again.

#include "common.cuh"
#include "fragments.cuh"
#include "async.cuh"

constexpr int PIECES = 2 * WARPGROUPS;  // of 64 rows of the product
constexpr int SPAN = 64 * PIECES;
constexpr int SUMS = M_TILE / 2;  // fp32 sums of a thread for one piece
constexpr int SCALE_SIZE = SCALE == 2 ? 4 : 2;
constexpr int ROWS_OF_GROUPS = BACKWARD ? (GROUP ? SPAN / (GROUP ? GROUP : 1) + 2 : 1) : PIECES * HALVES;
constexpr int X_BYTES = M_TILE * 128;
constexpr int WORD_BYTES = PIECES * 2048;
constexpr int SCALE_BYTES = ROWS_OF_GROUPS * 64 * SCALE_SIZE;
constexpr int ZERO_BYTES = ROWS_OF_GROUPS * 32;
constexpr int STAGE_BYTES = (X_BYTES + WORD_BYTES + SCALE_BYTES + ZERO_BYTES + 1023) / 1024 * 1024;
constexpr int OUT_BYTES = 2 * M_TILE * 128;  // of a warpgroup
constexpr int THREADS = 128 * WARPGROUPS + 128;

struct Weight4 {
  const uint4* words;
  const void* scales;
  const u32* zeros;
};

struct Sizes { int M, N, K, chunks, tiles, groups; };

struct Walk {  // over the tiles and pieces that this cluster works on
  int depth, columns, unit, end;

  INLINE Walk(const Sizes& s, int clusters, int index) {
    depth = BACKWARD ? s.tiles : s.chunks;
    columns = (s.M + M_TILE - 1) / M_TILE;
    const int across = BACKWARD ? s.chunks : s.tiles;
    const u64 units = u64((across + PIECES * CLUSTER - 1) / (PIECES * CLUSTER)) * columns * depth;
    unit = int(units * index / clusters);
    end = int(units * (index + 1) / clusters);
  }
  INLINE bool more() const { return unit < end; }
  INLINE int first() const { return unit % depth; }
  INLINE int last() const { return min(depth, first() + end - unit); }
  INLINE int row() const { return unit / depth % columns * M_TILE; }
  INLINE int piece(int rank) const { return (unit / depth / columns * CLUSTER + rank) * PIECES; }
  INLINE void next() { unit += last() - first(); }
};

struct Ring {
  int stage, turn;
  INLINE void advance() {
    if (++stage == STAGES) stage = 0, turn ^= 1;
  }
};

// What a stage holds, one after the other: x, words, scales, zeros. Each of four warps brings its part:
// one alone could not start the many small copies as fast as they are needed.
INLINE void fill(u32 to, u32 barrier, const TensorMap* x_map, const Weight4& w, const Sizes& s, int rank,
                 int row, int piece, int at, int warp) {
  const u32 words = to + X_BYTES, scales = words + WORD_BYTES, zeros = scales + SCALE_BYTES;
  const char* scale_at = static_cast<const char*>(w.scales);
#if BACKWARD
  const int valid = max(0, min(PIECES, s.chunks - piece));
  const int group = group_of(piece * 64);
  const int rows = valid ? min(group_of(piece * 64 + SPAN - 1), s.groups - 1) - group + 1 : 0;
  const u64 from = u64(at) * s.groups + group;
  const u32 bytes = warp == 0 ? X_BYTES : warp == 1 ? valid * 2048 : rows * (warp == 2 ? 64 * SCALE_SIZE : 32);
  barrier_expect(barrier, bytes);
  if (warp == 1 && valid) copy_bytes(words, w.words + (u64(at) * s.chunks + piece) * 128, bytes, barrier);
  if (warp == 2 && valid) copy_bytes(scales, scale_at + from * (64 * SCALE_SIZE), bytes, barrier);
  if (warp == 3 && valid) copy_bytes(zeros, w.zeros + from * 8, bytes, barrier);
#else
  constexpr int OF_WARP = PIECES / 4;
  const int first = warp * OF_WARP, valid = max(0, min(OF_WARP, s.tiles - piece - first));
  barrier_expect(barrier, (warp ? 0 : X_BYTES) + valid * (2048 + HALVES * (64 * SCALE_SIZE + 32)));
#pragma unroll
  for (int i = 0; i < OF_WARP; ++i) {
    if (i >= valid) break;
    const int tile = piece + first + i;
    copy_bytes(words + (first + i) * 2048, w.words + (u64(tile) * s.chunks + at) * 128, 2048, barrier);
#pragma unroll
    for (int half = 0; half < HALVES; ++half) {
      const u64 from = u64(tile) * s.groups + min(group_of(at * 64 + half * 32), s.groups - 1);
      const int slot = (first + i) * HALVES + half;
      copy_bytes(scales + slot * (64 * SCALE_SIZE), scale_at + from * (64 * SCALE_SIZE), 64 * SCALE_SIZE, barrier);
      copy_bytes(zeros + slot * 32, w.zeros + from * 8, 32, barrier);
    }
  }
#endif
  if (warp) return;
#if CLUSTER > 1
  constexpr int ROWS = M_TILE / CLUSTER;
  copy_box_to(to + rank * (ROWS * 128), x_map, at * 64, row + rank * ROWS, barrier, (1 << CLUSTER) - 1);
#else
  copy_box(to, x_map, at * 64, row, barrier);
#endif
}

INLINE float2 pair_of_scales(u32 pair) {
  const u16 low = u16(pair), high = u16(pair >> 16);
  return SCALE ? make_float2(bfloat_to_float(low), bfloat_to_float(high))
               : make_float2(half_to_float(low), half_to_float(high));
}

INLINE u32 pair_of(float low, float high) {
  u32 out;
  asm("cvt.rn." ELEMENT "x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

INLINE u32 times(u32 a, u32 b) {
  u32 out;
  asm("mul.rn." ELEMENT "x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}

// A thread's part of one warpgroup's tile of the weight, step by step of 16 along the sum.
#if BACKWARD
// Rows of the product are input features. A lane's two words, of output features 2 t and 2 t + 1 (and
// those plus 8), hold 4 input features each: rows g and g + 8 of two pieces.
struct Operand {
  u32 word, order_low, order_high;
  int group, g, t;
  u32 scales[8], lows[4], highs[4];
  u32 words[4][2];  // as they were read: the lane's second one first where t is odd

  INLINE Operand(int warpgroup, int warp, int lane, int piece, const Sizes& s) {
    g = lane >> 2, t = lane & 3;
    const int chunk = warpgroup * 2 + (warp >> 1), step = (warp & 1) * 2 + (g >> 2);
    word = ((chunk * 4 * 32) + 8 * t + (g & 3)) * 16 + step * 4;
    order_low = t & 1 ? 0x1054 : 0x5410;
    order_high = t & 1 ? 0x3276 : 0x7632;
    const int k = (piece + chunk) * 64 + (step >> 1) * 32;
    group = min(group_of(k), s.groups - 1) - group_of(piece * 64);
    group = max(0, min(group, ROWS_OF_GROUPS - 1));
  }

  INLINE void begin(const char* stage) {
    // Neighbouring lanes read their two words in opposite order, which halves the bank conflicts.
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        words[step][i] = *reinterpret_cast<const u32*>(stage + X_BYTES + word + step * 512 + 64 * ((t ^ i) & 1));
    const char* at = stage + X_BYTES + WORD_BYTES + (group * 64 + 16 * t) * SCALE_SIZE;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#if SCALE == 2
      const float low = reinterpret_cast<const float*>(at)[i], high = reinterpret_cast<const float*>(at)[8 + i];
#else
      const u16 a = reinterpret_cast<const u16*>(at)[i], b = reinterpret_cast<const u16*>(at)[8 + i];
      const float low = SCALE ? bfloat_to_float(a) : half_to_float(a);
      const float high = SCALE ? bfloat_to_float(b) : half_to_float(b);
#endif
      scales[i] = pair_of(low * UNIT, high * UNIT);
    }
    const uint2 z = reinterpret_cast<const uint2*>(stage + X_BYTES + WORD_BYTES + SCALE_BYTES)[group * 4 + t];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Zeros zeros = zeros_of_both(__byte_perm(z.x, z.y, 0x4400 + i * 0x1111));
      lows[i] = zeros.low, highs[i] = zeros.high;
    }
  }

  INLINE void expand_step(const char*, int step, u32 (&a)[2][4]) const {
    const u32 both[2] = {__byte_perm(words[step][0], words[step][1], order_low),
                         __byte_perm(words[step][0], words[step][1], order_high)};
#pragma unroll
    for (int piece = 0; piece < 2; ++piece)
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const u32 values = both[row] >> (8 * piece);
        a[piece][row] = times(low_pair(values, lows[step]), scales[2 * step]);
        a[piece][row + 2] = times(high_pair(values, highs[step]), scales[2 * step + 1]);
      }
  }
};
#else
struct Operand {
  int warpgroup, warp, lane;
  u32 scales[2][2];
  Zeros zeros[2];
  uint4 words[2];

  INLINE Operand(int warpgroup, int warp, int lane, int, const Sizes&)
      : warpgroup(warpgroup), warp(warp), lane(lane) {}

  INLINE void read_group(const char* stage, int half) {
    const char* meta = stage + X_BYTES + WORD_BYTES;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int slot = (warpgroup * 2 + i) * HALVES + half, g = lane >> 2;
      const char* at = meta + (slot * 64 + g * 8 + warp * 2) * SCALE_SIZE;
#if SCALE == 2
      const float2 pair = *reinterpret_cast<const float2*>(at);
#else
      const float2 pair = pair_of_scales(*reinterpret_cast<const u32*>(at));
#endif
      scales[i][0] = pair_of(pair.x * UNIT, pair.x * UNIT);
      scales[i][1] = pair_of(pair.y * UNIT, pair.y * UNIT);
      zeros[i] = zeros_of(reinterpret_cast<const u32*>(meta + SCALE_BYTES)[slot * 8 + g], warp);
    }
  }

  INLINE void begin(const char* stage) {
    read_group(stage, 0);
#pragma unroll
    for (int i = 0; i < 2; ++i)
      words[i] = reinterpret_cast<const uint4*>(stage + X_BYTES)[((warpgroup * 2 + i) * 4 + warp) * 32 + lane];
  }

  INLINE void expand_step(const char* stage, int step, u32 (&a)[2][4]) {
    if (TWO_GROUPS && step == 2) read_group(stage, 1);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const u32 of_step[4] = {words[i].x, words[i].y, words[i].z, words[i].w};
      expand(of_step + step, zeros[i], a[i]);
#pragma unroll
      for (int r = 0; r < 4; ++r) a[i][r] = times(a[i][r], scales[i][r & 1]);
    }
  }
};
#endif

// The sums as rows of x [M_TILE, 64], for each of the warpgroup's two pieces, swizzled.
INLINE void stage_output(u32 to, const float (&sums)[2][SUMS], int warp, int lane) {
#if BACKWARD
  const int g = lane >> 2, t = lane & 3;
  const u32 box = to + (warp >> 1) * (M_TILE * 128);
#pragma unroll
  for (int piece = 0; piece < 2; ++piece) {
    const int column = 2 * ((warp & 1) * 2 + (g >> 2)) + piece;
#pragma unroll
    for (int j = 0; j < M_TILE / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int m = 8 * j + 2 * t + i;
        const u32 pair = pair_of(sums[piece][4 * j + i], sums[piece][4 * j + 2 + i]);
        const u32 at = box + m * 128 + ((column ^ (m & 7)) << 4) + 4 * (g & 3);
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(pair) : "memory");
      }
  }
#else
  const int column = 2 * warp + ((lane >> 3) & 1);
#pragma unroll
  for (int piece = 0; piece < 2; ++piece)
#pragma unroll
    for (int j = 0; j < M_TILE / 8; j += 2) {
      const int m = 8 * (j + (lane >> 4)) + (lane & 7);
      const u32 at = to + piece * (M_TILE * 128) + m * 128 + ((column ^ (m & 7)) << 4);
      const float* v = sums[piece] + 4 * j;
      store_transposed(at, pair_of(v[0], v[1]), pair_of(v[2], v[3]), pair_of(v[4], v[5]), pair_of(v[6], v[7]));
    }
#endif
}

INLINE void leave_sums(const float (&sums)[2][SUMS], float* part, u32* flag, int barrier, int thread) {
#pragma unroll
  for (int i = 0; i < 2 * SUMS; i += 4) {
    const float* v = &sums[0][0] + i;
    reinterpret_cast<float4*>(part)[i / 4 * 128 + thread] = make_float4(v[0], v[1], v[2], v[3]);
  }
  __threadfence();
  meet(barrier, 128);
  if (thread == 0) asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
}

INLINE void add_sums(float (&sums)[2][SUMS], const float* part, u32* flag, int barrier, int thread) {
  if (thread == 0) {
    u32 raised;
    do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(raised) : "l"(flag) : "memory");
    while (!raised);
    asm volatile("st.relaxed.gpu.global.u32 [%0], 0;" ::"l"(flag) : "memory");
  }
  meet(barrier, 128);
#pragma unroll
  for (int i = 0; i < 2 * SUMS; i += 4) {
    float4 v;
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "l"(reinterpret_cast<const float4*>(part) + i / 4 * 128 + thread) : "memory");
    float* sum = &sums[0][0] + i;
    sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
  }
}

extern "C" __global__ void
#if CLUSTER > 1
__cluster_dims__(CLUSTER, 1, 1)
#endif
__launch_bounds__(THREADS, 1)
multiply_tiles(const __grid_constant__ TensorMap x_map, const __grid_constant__ TensorMap y_map,
               const uint4* words, const void* scales, const u32* zeros, float* parts, u32* flags, int M,
               int N, int K, int chunks, int tiles, int groups) {
  extern __shared__ char raw[];
  char* shared = raw + (-shared_address(raw) & 1023);
  __shared__ u64 barriers[2 * STAGES];
  const int warpgroup = threadIdx.x / 128 - 1;  // -1 fetches
  const int clusters = gridDim.x / CLUSTER, cluster = blockIdx.x / CLUSTER, rank = blockIdx.x % CLUSTER;
  const Sizes sizes = {M, N, K, chunks, tiles, groups};
  const Weight4 weight = {words, scales, zeros};
  const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) {
      barrier_init(full + 8 * i, 4);  // by every warp that fetches
      barrier_init(empty + 8 * i, 4 * WARPGROUPS * CLUSTER);  // by every warp
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
#if CLUSTER > 1
  asm volatile("barrier.cluster.arrive.release.aligned;\n barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
#if EARLY
  asm volatile("griddepcontrol.launch_dependents;\n griddepcontrol.wait;" ::: "memory");
#endif
  const int share = clusters - 1 - cluster;  // the first cluster has the last share: see above
  Ring ring = {0, 0};
  if (warpgroup < 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (threadIdx.x % 32 == 0) {
      for (Walk walk(sizes, clusters, share); walk.more(); walk.next())
        for (int at = walk.first(), last = walk.last(), row = walk.row(), piece = walk.piece(rank); at < last; ++at) {
          barrier_wait(empty + 8 * ring.stage, ring.turn ^ 1);
          fill(shared_address(shared) + ring.stage * STAGE_BYTES, full + 8 * ring.stage, &x_map, weight, sizes, rank,
               row, piece, at, threadIdx.x / 32);
          ring.advance();
        }
    }
  } else {
#if WARPGROUPS == 2
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
#endif
    const int thread = threadIdx.x & 127, warp = thread >> 5, lane = thread & 31, named = 1 + warpgroup;
    const u32 output = shared_address(shared) + STAGES * STAGE_BYTES + warpgroup * OUT_BYTES;
    float sums[2][SUMS];
    for (Walk walk(sizes, clusters, share); walk.more(); walk.next()) {
      const int first = walk.first(), last = walk.last(), row = walk.row(), piece = walk.piece(rank);
      Operand operand(warpgroup, warp, lane, piece, sizes);
      int before = -1;
      for (int at = first; at < last; ++at) {
        barrier_wait(full + 8 * ring.stage, ring.turn);
        const char* stage = shared + ring.stage * STAGE_BYTES;
        const u64 x = operand_at(shared_address(stage));
        operand.begin(stage);
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          u32 a[2][4];
          operand.expand_step(stage, step, a);
          products_begin();
#pragma unroll
          for (int i = 0; i < 2; ++i) multiply_into(sums[i], a[i], x + 2 * step, at == first && step == 0);
          products_commit();
          products_wait<1>();
          if (step == 0 && before >= 0 && lane < CLUSTER) barrier_arrive(empty + 8 * before, lane);
        }
        before = ring.stage;
        ring.advance();
      }
      products_wait<0>();
      if (lane < CLUSTER) barrier_arrive(empty + 8 * before, lane);

      constexpr u64 PART = u64(128) * 2 * SUMS;
      const u64 own = u64(blockIdx.x) * WARPGROUPS + warpgroup;
      if (first > 0) {
        leave_sums(sums, parts + own * PART, flags + own, named, thread);
        continue;
      }
      if (last < walk.depth) {
        // The rest of this tile is the beginning of the shares after this one.
        int covered = walk.end;
        for (int i = 1; covered < walk.unit + walk.depth; ++i) {
          const Walk other(sizes, clusters, share + i);
          const u64 theirs = own - u64(i) * CLUSTER * WARPGROUPS;
          add_sums(sums, parts + theirs * PART, flags + theirs, named, thread);
          covered = other.end;
        }
      }
      stage_output(output, sums, warp, lane);
      shared_is_written();
      meet(named, 128);
      if (thread == 0) {
        for (int i = 0; i < 2; ++i)
          store_box(&y_map, output + i * (M_TILE * 128), (piece + warpgroup * 2 + i) * 64, row);
        stores_were_read();
      }
      meet(named, 128);
    }
    if (thread == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
#if CLUSTER > 1
  asm volatile("barrier.cluster.arrive.release.aligned;\n barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
