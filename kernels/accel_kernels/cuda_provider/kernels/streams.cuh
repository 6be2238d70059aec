// How a warp's chunks of weight come to it: DEPTH of them on their way at any time.
//
// A Stream gives chunk after chunk; `d` counts them modulo UNROLL, a constant once loops are unrolled.
//
// RING 0: into registers (any GPU). RING 1: into shared memory by cp.async (sm_80 and up), which
// leaves the registers to more warps; a warp's slots are its own, so that no block-wide barrier is needed.

//
// With more than 8 rows a RING brings the chunk's part of x too (X_RING): lanes would otherwise read it from
// global memory in pieces of 4 bytes, as mma.sync wants it.

struct Weight {
  const uint4* words;
  const void* scales;
  const u32* zeros;
};

constexpr bool X_RING = RING && ROWS > 1;

// Rows of the tile's scales and zeros that hold half a chunk's group. The second half of the last
// chunk may lie beyond K: its x is zero, and so any group will do.
INLINE u64 group_row(int tile, int c, int half, int groups, int g) {
  const int group = min(group_of(c * CHUNK + half * 32), groups - 1);
  return (u64(tile) * groups + group) * 8 + g;
}

#if RING
constexpr int WORD_BYTES = COLUMNS * VECTORS * 512;
constexpr int SCALE_BYTES = COLUMNS * 2 * (SCALE == 2 ? 4 : 2);  // of one g
constexpr int ZERO_BYTES = VECTORS * 4;
constexpr int HALF_BYTES = 8 * (SCALE_BYTES + ZERO_BYTES);
constexpr int X_AT = WORD_BYTES + HALVES * HALF_BYTES;
constexpr int SLOT = X_AT + (X_RING ? X_BYTES : 0);
constexpr int UNROLL = AHEAD ? 2 : 1;

template <int BYTES>
INLINE void copy_small(u32 to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(BYTES) : "memory");
}

struct Chunk {
  const char* slot;
  int lane;

  INLINE void read_x(u32 (&x)[ROWS][8]) const { read_fragments(slot + X_AT, lane, x); }

  INLINE uint4 words(int i) const { return reinterpret_cast<const uint4*>(slot)[i * 32 + lane]; }

  INLINE float2 scales(int half, int column) const {
    const char* at = slot + WORD_BYTES + half * HALF_BYTES + (lane >> 2) * SCALE_BYTES;
#if SCALE == 2
    return reinterpret_cast<const float2*>(at)[column];
#else
    return pair_of_scales(reinterpret_cast<const u32*>(at)[column]);
#endif
  }

  INLINE u32 zeros(int half, int i) const {
    const char* at = slot + WORD_BYTES + half * HALF_BYTES + 8 * SCALE_BYTES;
    return reinterpret_cast<const u32*>(at)[(lane >> 2) * VECTORS + i];
  }
};

struct Stream {
  const Weight& weight;
  const Activations& x;
  const uint4* next;
  char* slots;
  int tile, first, end, groups, lane, turn;
  Chunk chunk;

  INLINE Stream(const Weight& w, const Activations& x, int tile, int first, int begin, int end, int chunks,
                int groups, float* shared, int warp, int lane)
      : weight(w), x(x), slots(reinterpret_cast<char*>(shared) + warp * DEPTH * SLOT), tile(tile),
        first(first), end(end), groups(groups), lane(lane), turn(0) {
    next = w.words + ((u64(tile) * chunks + begin) * 4 + first) * (32 * VECTORS) + lane;
    chunk.lane = lane;
    if (X_RING)  // rows that are not there are zero, for good
      for (int i = x.rows * 8 + lane; i < ROWS * 64; i += 32)
        for (int d = 0; d < DEPTH; ++d)
          *reinterpret_cast<uint4*>(slots + d * SLOT + X_AT + place_of_x(i >> 3, i & 7)) = make_uint4(0, 0, 0, 0);
    for (int d = 0; d < DEPTH; ++d) fill(begin + d, slots + d * SLOT);
  }

  INLINE void fill(int c, char* slot) {
    if (c < end) {
      const u32 to = u32(__cvta_generic_to_shared(slot));
#pragma unroll
      for (int i = 0; i < COLUMNS * VECTORS; ++i)
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to + (i * 32 + lane) * 16),
                     "l"(next + i * 32) : "memory");
      if (X_RING) bring_x<false>(slot + X_AT, x, c, lane);
#pragma unroll
      for (int half = 0; half < HALVES; ++half) {
        const u64 row = group_row(tile, c, half, groups, lane & 7);
        const u32 at = to + WORD_BYTES + half * HALF_BYTES;
        if (lane < 8) {
          const char* from = static_cast<const char*>(weight.scales) + (row * 8 + first * 2) * (SCALE == 2 ? 4 : 2);
          constexpr int PART = SCALE_BYTES > 16 ? 16 : SCALE_BYTES;
#pragma unroll
          for (int b = 0; b < SCALE_BYTES; b += PART)
            copy_small<PART>(at + (lane & 7) * SCALE_BYTES + b, from + b);
        } else if (lane < 16) {
          copy_small<ZERO_BYTES>(at + 8 * SCALE_BYTES + (lane & 7) * ZERO_BYTES, weight.zeros + row * VECTORS);
        }
      }
    }
    next += 4 * 32 * VECTORS;
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  INLINE const Chunk& wait(int) {
    asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 1) : "memory");
    __syncwarp();  // the scales were copied by other lanes
    chunk.slot = slots + turn * SLOT;
    return chunk;
  }

  INLINE void refill(int c, int) {
    __syncwarp();
    fill(c + DEPTH, slots + turn * SLOT);
    turn = turn + 1 == DEPTH ? 0 : turn + 1;
  }

  // The shared memory is free for other use by the whole block afterwards.
  INLINE void finish() {
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
  }
};

#else
constexpr int UNROLL = DEPTH;

struct Chunk {
  INLINE void read_x(u32 (&)[ROWS][8]) const {}
  uint4 held[COLUMNS * VECTORS];
  u32 held_zeros[HALVES][VECTORS];
#if SCALE == 2
  float2 held_scales[HALVES][COLUMNS];
#else
  u32 held_scales[HALVES][COLUMNS];
#endif

  INLINE uint4 words(int i) const { return held[i]; }
  INLINE u32 zeros(int half, int i) const {
    return VECTORS == 2 && i ? held_zeros[half][VECTORS - 1] : held_zeros[half][0];
  }
  INLINE float2 scales(int half, int column) const {
#if SCALE == 2
    return held_scales[half][column];
#else
    return pair_of_scales(held_scales[half][column]);
#endif
  }

  INLINE void load_group(int half, const Weight& w, u64 row, int first) {
    const u64 at = row * 8 + first * 2;
#if SCALE == 2
#pragma unroll
    for (int i = 0; i < COLUMNS; ++i) held_scales[half][i] = static_cast<const float2*>(w.scales)[at / 2 + i];
#else
    const u32* scales = static_cast<const u32*>(w.scales) + at / 2;
#if COLUMNS == 4
    const uint4 v = *reinterpret_cast<const uint4*>(scales);
    held_scales[half][0] = v.x, held_scales[half][1] = v.y;
    held_scales[half][2] = v.z, held_scales[half][3] = v.w;
#elif COLUMNS == 2
    const uint2 v = *reinterpret_cast<const uint2*>(scales);
    held_scales[half][0] = v.x, held_scales[half][1] = v.y;
#else
    held_scales[half][0] = *scales;
#endif
#endif
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) held_zeros[half][i] = w.zeros[row * VECTORS + i];
  }
};

struct Stream {
  const Weight& weight;
  const uint4* next;
  int tile, first, end, groups, lane;
  Chunk ring[DEPTH];

  INLINE Stream(const Weight& w, const Activations&, int tile, int first, int begin, int end, int chunks,
                int groups, float* shared, int warp, int lane)
      : weight(w), tile(tile), first(first), end(end), groups(groups), lane(lane) {
    next = w.words + ((u64(tile) * chunks + begin) * 4 + first) * (32 * VECTORS) + lane;
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) fill(begin + d, ring[d]);
  }

  INLINE void fill(int c, Chunk& chunk) {
    if (c < end) {
#pragma unroll
      for (int i = 0; i < COLUMNS * VECTORS; ++i) chunk.held[i] = load_once(next + i * 32);
#pragma unroll
      for (int half = 0; half < HALVES; ++half)
        chunk.load_group(half, weight, group_row(tile, c, half, groups, lane >> 2), first);
    }
    next += 4 * 32 * VECTORS;
  }

  INLINE const Chunk& wait(int d) { return ring[d]; }
  INLINE void refill(int c, int d) { fill(c + DEPTH, ring[d]); }
  INLINE void finish() {}
};
#endif
