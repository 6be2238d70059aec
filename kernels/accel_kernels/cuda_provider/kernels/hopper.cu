// y = x W, or dX = dY W^T (BACKWARD), for many rows of x, by Hopper's wgmma (sm_90a).
//
// The weight is the left operand: its packed words go from global to shared memory, are expanded in
// registers and multiplied from there. So the product is transposed: its rows are W's output features
// (BACKWARD: its input features), its columns the rows of x. The sum runs over pieces of 64.
//
// Also set: M_TILE (rows of x of a block: 16, 32, 64, 128, 256), HEIGHT (pieces of 64 rows of the product that each
// of the two multiplying warpgroups has: 1 or 2), STAGES (pieces of the sum in flight), CLUSTER (blocks that share x: 1 or 2),
// EARLY (may be launched before the kernel before it has ended). BITS is 4.
//
// Every cluster has an equal share of all pieces of all tiles ("stream-K"). A tile whose sum is shared by
// several clusters is finished by the one that has its beginning; the others leave their sums in `parts`
// and raise a flag. A cluster waits only for clusters of lower index, which were started before it, so
// that all end even where not all fit on the GPU at once; and it lowers the flags again.

#include "common.cuh"
#include "fragments.cuh"
#include "async.cuh"

constexpr int WARPGROUPS = 2;
constexpr int PIECES = HEIGHT * WARPGROUPS;  // of 64 rows of the product
constexpr int SPAN = 64 * PIECES;
constexpr int SUMS = M_TILE / 2;  // fp32 sums of a thread for one piece
constexpr int SCALE_SIZE = SCALE == 2 ? 4 : 2;
constexpr int ROWS_OF_GROUPS = BACKWARD ? (GROUP ? SPAN / (GROUP ? GROUP : 1) + 2 : 1) : PIECES * HALVES;
constexpr int X_BYTES = M_TILE * 128;
constexpr int WORD_BYTES = PIECES * 2048;
constexpr int SCALE_BYTES = ROWS_OF_GROUPS * 64 * SCALE_SIZE;
constexpr int ZERO_BYTES = ROWS_OF_GROUPS * 32;
constexpr int STAGE_BYTES = (X_BYTES + WORD_BYTES + SCALE_BYTES + ZERO_BYTES + 1023) / 1024 * 1024;
constexpr int OUT_BYTES = HEIGHT * M_TILE * 128;  // of a warpgroup
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

// The stage that is filled or used next, and the phase of its barriers.
struct Ring {
  u32 stage, full, parity, end;

  INLINE Ring(u32 stages, u32 full) : stage(stages), full(full), parity(0), end(full + 8 * STAGES) {}
  INLINE u32 empty() const { return full + 8 * STAGES; }
  INLINE void advance() {
    stage += STAGE_BYTES, full += 8;
    if (full == end) stage -= STAGES * STAGE_BYTES, full -= 8 * STAGES, parity ^= 1;
  }
};

// Whether the scales for piece `at` of the sum are others than for the piece before it.
INLINE bool new_group(int at, int first) {
  if (BACKWARD || TWO_GROUPS || at == first) return true;
  return GROUP && at * 64 % (GROUP ? GROUP : 1) == 0;
}

// What a stage holds, one after the other: x, words, scales, zeros. Each of four warps brings its part:
// one alone could not start the many small copies as fast as they are needed.
INLINE void fill(u32 to, u32 barrier, const TensorMap* x_map, const Weight4& w, const Sizes& s, int rank,
                 int row, int piece, int at, bool fresh, int warp) {
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
  constexpr int OF_WARP = (PIECES + 3) / 4;
  const int first = warp * OF_WARP, valid = max(0, min(OF_WARP, min(PIECES, s.tiles - piece) - first));
  barrier_expect(barrier, (warp ? 0 : X_BYTES) + valid * (2048 + (fresh ? HALVES * (64 * SCALE_SIZE + 32) : 0)));
#pragma unroll
  for (int i = 0; i < OF_WARP; ++i) {
    if (i >= valid) break;
    const int tile = piece + first + i;
    copy_bytes(words + (first + i) * 2048, w.words + (u64(tile) * s.chunks + at) * 128, 2048, barrier);
    if (!fresh) continue;
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

// A weight is (q - z) s. bf16: q alone in a word is a subnormal number, 2**-133 q or, four bits higher,
// 2**-129 q; multiplied by s 2**109 (2**105) and with the likewise scaled z s, rounded to bf16, taken off, it
// is the weight times 2**-24, by one instruction. The sums are multiplied by 2**24 in the end.
// fp16 has no such range: q - z is made first, exactly, and then multiplied by s.
#if BF16
constexpr float WHOLE = 16777216.0f;
constexpr u32 LIFT_LOW = 0x76007600u, LIFT_HIGH = 0x74007400u;  // twice 2**109, 2**105
#else
constexpr float WHOLE = 1.0f;
constexpr u32 LIFT_LOW = 0x3c003c00u, LIFT_HIGH = LIFT_LOW;
#endif

// Two scales, as stored, of values in low or high nibbles.
INLINE u32 lifted(u32 pair, u32 lift) {
#if SCALE == 0 && BF16
  return times(pair_of(half_to_float(u16(pair)), half_to_float(u16(pair >> 16))), lift);
#else
  return BF16 ? times(pair, lift) : pair;
#endif
}

// What makes weights of the low and the high nibbles of a word's bytes 0 and 2.
struct Affine {
  u32 low, high, low_zero, high_zero;

  INLINE void set(u32 low_scales, u32 high_scales, u32 both_zeros) {
    low = lifted(low_scales, LIFT_LOW), high = lifted(high_scales, LIFT_HIGH);
#if BF16
    low_zero = times(both_zeros & 0x000f000fu, low ^ 0x80008000u);
    high_zero = times(both_zeros & 0x00f000f0u, high ^ 0x80008000u);
#else
    const Zeros zeros = zeros_of_both(both_zeros);
    low_zero = zeros.low, high_zero = zeros.high;
#endif
  }
  INLINE u32 of_low(u32 word) const {
    return BF16 ? fma2(word & 0x000f000fu, low, low_zero) : times(low_pair(word, low_zero), low);
  }
  INLINE u32 of_high(u32 word) const {
    return BF16 ? fma2(word & 0x00f000f0u, high, high_zero) : times(high_pair(word, high_zero), high);
  }
};

// A thread's part of one warpgroup's tile of the weight, step by step of 16 along the sum.
#if BACKWARD
// Rows of the product are input features. A lane's two words, of output features 2 t and 2 t + 1 (and
// those plus 8), hold 4 input features each: rows g and g + 8 of two pieces, or of one, where another
// warp has the same words for the other rows.
struct Operand {
  u32 first_word, second_word, scale_at, zero_at, order_low, order_high, shift;
  Affine affine[4];
  u32 words[4][2];

  INLINE Operand(int warpgroup, int warp, int lane, int piece, const Sizes& s) {
    const int g = lane >> 2, t = lane & 3;
    const int chunk = warpgroup * HEIGHT + (HEIGHT == 2 ? warp >> 1 : 0), step = (warp & 1) * 2 + (g >> 2);
    shift = HEIGHT == 2 ? 0 : 8 * (warp >> 1);
    // Neighbouring lanes read their two words in opposite order, which halves the bank conflicts.
    const u32 word = X_BYTES + ((chunk * 4 * 32) + 8 * t + (g & 3)) * 16 + step * 4;
    first_word = word + (t & 1) * 64, second_word = word + 64 - (t & 1) * 64;
    order_low = t & 1 ? 0x1054 : 0x5410;
    order_high = t & 1 ? 0x3276 : 0x7632;
    const int k = (piece + chunk) * 64 + (step >> 1) * 32;
    int group = min(group_of(k), s.groups - 1) - group_of(piece * 64);
    group = max(0, min(group, ROWS_OF_GROUPS - 1));
    scale_at = X_BYTES + WORD_BYTES + (group * 64 + 16 * t) * SCALE_SIZE;
    zero_at = X_BYTES + WORD_BYTES + SCALE_BYTES + group * 32 + t * 8;
  }

  INLINE void begin(u32 stage, bool) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      words[step][0] = read_word(stage + first_word + step * 512);
      words[step][1] = read_word(stage + second_word + step * 512);
    }
    const uint2 z = read_two(stage + zero_at);
#if SCALE == 2
    u32 pairs[8];
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      const uint4 a = read_four(stage + scale_at + 4 * i), b = read_four(stage + scale_at + 32 + 4 * i);
      const u32 even[4] = {a.x, a.y, a.z, a.w}, odd[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) pairs[i + j] = pair_of(__uint_as_float(even[j]), __uint_as_float(odd[j]));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      affine[i].set(pairs[2 * i], pairs[2 * i + 1], __byte_perm(z.x, z.y, 0x4400 + i * 0x1111));
#else
    const uint4 a = read_four(stage + scale_at), b = read_four(stage + scale_at + 16);
    const u32 even[4] = {a.x, a.y, a.z, a.w}, odd[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 4; ++i)
      affine[i].set(__byte_perm(even[i], odd[i], 0x5410), __byte_perm(even[i], odd[i], 0x7632),
                    __byte_perm(z.x, z.y, 0x4400 + i * 0x1111));
#endif
  }

  INLINE void expand_step(u32, int step, u32 (&a)[HEIGHT][4]) const {
    const u32 both[2] = {__byte_perm(words[step][0], words[step][1], order_low),
                         __byte_perm(words[step][0], words[step][1], order_high)};
#pragma unroll
    for (int piece = 0; piece < HEIGHT; ++piece)
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const u32 values = both[row] >> (shift + 8 * piece);
        a[piece][row] = affine[step].of_low(values);
        a[piece][row + 2] = affine[step].of_high(values);
      }
  }
};
#else
struct Operand {
  u32 word_at, scale_at, zero_at, byte;
  Affine affine[HEIGHT];
  uint4 words[HEIGHT];

  INLINE Operand(int warpgroup, int warp, int lane, int, const Sizes&) {
    const int g = lane >> 2;
    word_at = X_BYTES + (warpgroup * HEIGHT * 4 + warp) * 512 + lane * 16;
    scale_at = X_BYTES + WORD_BYTES + (warpgroup * HEIGHT * HALVES * 64 + g * 8 + warp * 2) * SCALE_SIZE;
    zero_at = X_BYTES + WORD_BYTES + SCALE_BYTES + warpgroup * HEIGHT * HALVES * 32 + g * 4;
    byte = 0x4040 + warp * 0x0101;
  }

  INLINE void read_group(u32 stage, int half) {
#pragma unroll
    for (int i = 0; i < HEIGHT; ++i) {
      const int slot = i * HALVES + half;
#if SCALE == 2
      const uint2 v = read_two(stage + scale_at + slot * 256);
      const u32 both = pair_of(__uint_as_float(v.x), __uint_as_float(v.y));
#else
      const u32 both = read_word(stage + scale_at + slot * 128);
#endif
      affine[i].set(__byte_perm(both, 0, 0x1010), __byte_perm(both, 0, 0x3232),
                    __byte_perm(read_word(stage + zero_at + slot * 32), 0, byte));
    }
  }

  INLINE void begin(u32 stage, bool fresh) {
#pragma unroll
    for (int i = 0; i < HEIGHT; ++i) words[i] = read_four(stage + word_at + i * 2048);
    if (fresh) read_group(stage, 0);
  }

  INLINE void expand_step(u32 stage, int step, u32 (&a)[HEIGHT][4]) {
    if (TWO_GROUPS && step == 2) read_group(stage, 1);
#pragma unroll
    for (int i = 0; i < HEIGHT; ++i) {
      const u32 of_step[4] = {words[i].x, words[i].y, words[i].z, words[i].w};
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const u32 values = of_step[step] >> (8 * pair);
        a[i][2 * pair] = affine[i].of_low(values);
        a[i][2 * pair + 1] = affine[i].of_high(values);
      }
    }
  }
};
#endif

INLINE u32 whole(float low, float high) { return pair_of(low * WHOLE, high * WHOLE); }

// The sums as rows of x [M_TILE, 64], for each of the warpgroup's pieces, swizzled.
INLINE void stage_output(u32 to, const float (&sums)[HEIGHT][SUMS], int warp, int lane) {
#if BACKWARD
  const int g = lane >> 2, t = lane & 3;
  const u32 box = to + (HEIGHT == 2 ? (warp >> 1) * (M_TILE * 128) : 0);
#pragma unroll
  for (int piece = 0; piece < HEIGHT; ++piece) {
    const int column = 2 * ((warp & 1) * 2 + (g >> 2)) + (HEIGHT == 2 ? piece : warp >> 1);
#pragma unroll
    for (int j = 0; j < M_TILE / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int m = 8 * j + 2 * t + i;
        const u32 pair = whole(sums[piece][4 * j + i], sums[piece][4 * j + 2 + i]);
        const u32 at = box + m * 128 + ((column ^ (m & 7)) << 4) + 4 * (g & 3);
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(pair) : "memory");
      }
  }
#else
  const int column = 2 * warp + ((lane >> 3) & 1);
#pragma unroll
  for (int piece = 0; piece < HEIGHT; ++piece)
#pragma unroll
    for (int j = 0; j < M_TILE / 8; j += 2) {
      const int m = 8 * (j + (lane >> 4)) + (lane & 7);
      const u32 at = to + piece * (M_TILE * 128) + m * 128 + ((column ^ (m & 7)) << 4);
      const float* v = sums[piece] + 4 * j;
      store_transposed(at, whole(v[0], v[1]), whole(v[2], v[3]), whole(v[4], v[5]), whole(v[6], v[7]));
    }
#endif
}

INLINE void leave_sums(const float (&sums)[HEIGHT][SUMS], float* part, u32* flag, int barrier, int thread) {
#pragma unroll
  for (int i = 0; i < HEIGHT * SUMS; i += 4) {
    const float* v = &sums[0][0] + i;
    reinterpret_cast<float4*>(part)[i / 4 * 128 + thread] = make_float4(v[0], v[1], v[2], v[3]);
  }
  __threadfence();
  meet(barrier, 128);
  if (thread == 0) asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
}

INLINE void add_sums(float (&sums)[HEIGHT][SUMS], const float* part, u32* flag, int barrier, int thread) {
  if (thread == 0) {
    u32 raised;
    do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(raised) : "l"(flag) : "memory");
    while (!raised);
    asm volatile("st.relaxed.gpu.global.u32 [%0], 0;" ::"l"(flag) : "memory");
  }
  meet(barrier, 128);
#pragma unroll
  for (int i = 0; i < HEIGHT * SUMS; i += 4) {
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
  __shared__ u64 barriers[2 * STAGES];
  const int warpgroup = threadIdx.x / 128 - 1;  // -1 fetches
  const int clusters = gridDim.x / CLUSTER, cluster = blockIdx.x / CLUSTER, rank = blockIdx.x % CLUSTER;
  const Sizes sizes = {M, N, K, chunks, tiles, groups};
  const Weight4 weight = {words, scales, zeros};
  const u32 stages = shared_address(raw) + (-shared_address(raw) & 1023);
  const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
  if (threadIdx.x == 0) {
    prefetch_map(&x_map), prefetch_map(&y_map);
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
  // Weights may be on their way into the L2 cache while the kernel before this one still runs; they are read
  // only afterwards, for that kernel may have written them.
  if (warpgroup < 0 && threadIdx.x % 32 == 0) {
    const Walk walk(sizes, clusters, clusters - 1 - cluster);
    const int across = BACKWARD ? chunks : tiles, piece = walk.piece(rank);
    if (walk.more())
      for (int i = threadIdx.x / 32; i < min(PIECES, across - piece); i += 4)
#if BACKWARD
        for (int d = 0; d < min(STAGES, walk.last() - walk.first()); ++d)
          prefetch_bytes(words + (u64(walk.first() + d) * chunks + piece + i) * 128, 2048);
#else
        prefetch_bytes(words + (u64(piece + i) * chunks + walk.first()) * 128,
                       2048 * min(STAGES, walk.last() - walk.first()));
#endif
  }
  asm volatile("griddepcontrol.launch_dependents;\n griddepcontrol.wait;" ::: "memory");
#endif
  const int share = clusters - 1 - cluster;  // the first cluster has the last share: see above
  Ring ring(stages, full);
  if (warpgroup < 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (threadIdx.x % 32 == 0) {
      for (Walk walk(sizes, clusters, share); walk.more(); walk.next()) {
        const int first = walk.first(), last = walk.last(), row = walk.row(), piece = walk.piece(rank);
        for (int at = first; at < last; ++at) {
          barrier_wait(ring.empty(), ring.parity ^ 1);
          fill(ring.stage, ring.full, &x_map, weight, sizes, rank, row, piece, at, new_group(at, first),
               threadIdx.x / 32);
          ring.advance();
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    const int thread = threadIdx.x & 127, warp = thread >> 5, lane = thread & 31, named = 1 + warpgroup;
    const u32 output = stages + STAGES * STAGE_BYTES + warpgroup * OUT_BYTES;
    const bool frees = lane < CLUSTER;
    const u32 empty_there = address_in(empty, frees ? lane : 0) - full;  // of the block whose stages it frees
    float sums[HEIGHT][SUMS];
    for (Walk walk(sizes, clusters, share); walk.more(); walk.next()) {
      const int first = walk.first(), last = walk.last(), row = walk.row(), piece = walk.piece(rank);
      Operand operand(warpgroup, warp, lane, piece, sizes);
      u32 before = 0;
      for (int at = first; at < last; ++at) {
        barrier_wait(ring.full, ring.parity);
        const u64 x = operand_at(ring.stage);
        operand.begin(ring.stage, new_group(at, first));
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          u32 a[HEIGHT][4];
          operand.expand_step(ring.stage, step, a);
          products_begin();
#pragma unroll
          for (int i = 0; i < HEIGHT; ++i) multiply_into(sums[i], a[i], x + 2 * step, at == first && step == 0);
          products_commit();
          products_wait<1>();
          if (step == 0 && frees && before) barrier_arrive(before);
        }
        before = empty_there + ring.full;
        ring.advance();
      }
      products_wait<0>();
      if (frees) barrier_arrive(before);

      constexpr u64 PART = u64(128) * HEIGHT * SUMS;
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
        for (int i = 0; i < HEIGHT; ++i)
          store_box(&y_map, output + i * (M_TILE * 128), (piece + warpgroup * HEIGHT + i) * 64, row);
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
