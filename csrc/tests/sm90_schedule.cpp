// Proves on the host what the sm_90a kernels rely on: every tile once, every selected cube once, and pipelines that
// neither hang nor overwrite what is being read. The scripts below follow dense_kernel.h, sparse_single_kernel.h and
// sparse_triple_kernel.h line by line; the integer functions are the kernels' own.
//
// g++ -std=c++17 csrc/tests/sm90_schedule.cpp && ./a.out
#include "../cuda/sm90/schedule.h"

#include <map>
#include <set>
#include <tuple>

#include "../cuda/sm90/selection.h"
#include "simulate.h"

using namespace sky4::cuda::sm90;
using namespace sky4::tests;

namespace {

int below(std::mt19937& random, int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); }

template <int kTile>
void test_key_tiles_cover_every_key_once_partial_first(std::mt19937& random) {
    for (int trial = 0; trial < 2000; ++trial) {
        int length[kMaxSegments];
        for (int& n : length) n = below(random, 3) == 0 ? 0 : below(random, 5 * kTile);
        const KeyTiles<kTile> tiles(length);
        std::vector<std::vector<int>> seen(kMaxSegments);
        for (int s = 0; s < kMaxSegments; ++s) seen[s].assign(length[s], 0);
        for (int j = 0; j < tiles.total; ++j) {
            const KeyTile tile = tiles.at(j);
            REQUIRE((tile.valid < kTile) == (j < tiles.partial));
            REQUIRE(tile.valid > 0 && tile.valid <= kTile && tile.row % kTile == 0);
            for (int i = 0; i < tile.valid; ++i) ++seen[tile.segment].at(tile.row + i);
        }
        for (const auto& segment : seen)
            for (int count : segment) REQUIRE(count == 1);
    }
}

void test_splits_partition_the_tiles(std::mt19937& random) {
    for (int trial = 0; trial < 2000; ++trial) {
        const int tiles = below(random, 300), splits = 1 + below(random, 32);
        int next = 0;
        for (int i = 0; i < splits; ++i) {
            const TileRange range = split_range(tiles, i, splits);
            REQUIRE(range.begin == next && range.end >= range.begin);
            next = range.end;
        }
        REQUIRE(next == tiles);
    }
}

void test_work_items_cover_every_query_once_per_split(std::mt19937& random) {
    for (int trial = 0; trial < 200; ++trial) {
        WorkGrid grid{{below(random, 4), below(random, 3), 0, 1 + below(random, 2)},
                      1 + below(random, 3),
                      1 + below(random, 4),
                      1 + below(random, 3)};
        std::set<std::tuple<int, int, int, int, int>> seen;
        for (int item = 0; item < grid.items(); ++item) {
            const WorkItem work = grid.at<128>(item);
            REQUIRE(work.row % 128 == 0 && work.row / 128 < grid.tiles[work.segment]);
            REQUIRE(work.split < grid.splits && work.head < grid.heads && work.batch < grid.batches);
            REQUIRE(seen.insert({work.segment, work.row, work.split, work.head, work.batch}).second);
        }
        REQUIRE(static_cast<int64_t>(seen.size()) == grid.items());
    }
}

void test_splits_only_under_filled_grids() {
    REQUIRE(choose_splits(132, 1000, 132) == 1);
    REQUIRE(choose_splits(100000, 1000, 132) == 1);
    REQUIRE(choose_splits(48, 3, 132) == 1);
    for (int items = 1; items < 105; ++items)
        for (int tiles = 0; tiles < 400; ++tiles) {
            const int splits = choose_splits(items, tiles, 132);
            REQUIRE(splits >= 1 && splits <= 32 && (splits == 1 || tiles / splits >= 4));
        }
    const int audio = choose_splits(48, 187, 132);  // 218 queries x 24 heads against 480p
    REQUIRE(audio > 1 && 48.0 * audio / ((48 * audio + 131) / 132 * 132) > 0.85);
}

// --- the walk over selections ---

struct Selection {
    int cubes;
    std::vector<int32_t> starts, bits;
    std::vector<std::set<int>> rows;
    int text;
};

Selection random_selection(std::mt19937& random, int row_count) {
    Selection s;
    s.cubes = below(random, 100);
    s.starts.push_back(0);
    for (int c = 0; c < s.cubes; ++c)
        s.starts.push_back(s.starts.back() + (below(random, 8) ? 1 + below(random, 64) : 0));
    const int words = (s.cubes + 31) / 32;
    const int density = below(random, 4);  // none, few, half, most
    for (int r = 0; r < row_count; ++r) {
        s.rows.emplace_back();
        std::vector<int32_t> row(words, 0);
        for (int bit = 0; bit < 32 * words; ++bit) {
            if (density == 0 || below(random, 100) >= (density == 1 ? 4 : density == 2 ? 50 : 95)) continue;
            row[bit / 32] |= static_cast<int32_t>(1u << bit % 32);  // also bits past the last cube
            if (bit < s.cubes && s.starts[bit + 1] > s.starts[bit]) s.rows.back().insert(bit);
        }
        s.bits.insert(s.bits.end(), row.begin(), row.end());
    }
    s.text = below(random, 2) * below(random, 200);
    return s;
}

template <int kRows>
std::vector<KeyBlock> walk_all(const Selection& s, int present) {
    SelectionWalk<kRows> walk(s.bits.data(), s.starts.data(), s.cubes, present, s.text);
    std::vector<KeyBlock> blocks;
    for (KeyBlock block = walk.next(); block.size > 0; block = walk.next()) blocks.push_back(block);
    REQUIRE(walk.next().size == 0);
    return blocks;
}

template <int kRows>
void test_walk_is_the_union_of_its_rows(std::mt19937& random) {
    for (int trial = 0; trial < 3000; ++trial) {
        const int present = 1 + below(random, kRows);
        const Selection s = random_selection(random, present);
        std::vector<std::set<int>> seen(present);
        int last = -1, text_rows = 0;
        for (const KeyBlock& block : walk_all<kRows>(s, present)) {
            REQUIRE(block.owners != 0 && block.owners >> present == 0);
            const BlockNote note(block);
            REQUIRE(!note.is_end() && note.size() == block.size);
            for (int i = 0; i < kRows; ++i) REQUIRE(note.owned_by(i) == ((block.owners >> i & 1u) != 0));
            if (block.text) {
                REQUIRE(block.row == text_rows && block.owners == (1u << present) - 1u);
                text_rows += block.size;
                REQUIRE(block.size == 64 || text_rows == s.text);
                continue;
            }
            REQUIRE(block.row > last && text_rows == 0);  // ascending, before the text
            last = block.row;
            int cube = 0;
            while (s.starts[cube + 1] <= block.row) ++cube;
            REQUIRE(s.starts[cube] == block.row && s.starts[cube + 1] - block.row == block.size);
            for (int i = 0; i < present; ++i)
                if (block.owners >> i & 1u) REQUIRE(seen[i].insert(cube).second);
        }
        REQUIRE(text_rows == s.text);
        for (int i = 0; i < present; ++i) REQUIRE(seen[i] == s.rows[i]);
    }
}

// --- pipelines ---

struct SimulatedRing {
    std::vector<int> full, empty, buffer;

    SimulatedRing(Simulation& simulation, int slots, int consumer_warps) {
        for (int i = 0; i < slots; ++i) {
            full.push_back(simulation.barrier(1));
            empty.push_back(simulation.barrier(consumer_warps));
            buffer.push_back(simulation.buffer());
        }
    }
};

// `tiles` per unit of work; a unit without tiles touches no barrier.
void simulate_dense(std::mt19937& random, const std::vector<int>& tiles) {
    constexpr int kSlots = 2, kWarps = 8;
    Simulation simulation;
    const SimulatedRing query(simulation, 1, kWarps), key(simulation, kSlots, kWarps),
        value(simulation, kSlots, kWarps);
    const int turn[2] = {simulation.barrier(kWarps), simulation.barrier(kWarps)};

    Script producer{simulation.agent()};
    RingPosition<1> query_at;
    RingPosition<kSlots> at;
    int content = 0;
    for (size_t unit = 0; unit < tiles.size(); ++unit) {
        if (tiles[unit] == 0) continue;
        producer.wait(query.empty[0], query_at.phase ^ 1);
        producer.arrive(query.full[0], 1);
        producer.copy(query.buffer[0], static_cast<int>(unit), query.full[0]);
        query_at.advance();
        for (int j = 0; j < tiles[unit]; ++j, at.advance(), ++content)
            for (const SimulatedRing* ring : {&key, &value}) {
                producer.wait(ring->empty[at.slot], at.phase ^ 1);
                producer.arrive(ring->full[at.slot], 1);
                producer.copy(ring->buffer[at.slot], content, ring->full[at.slot]);
            }
    }

    for (int warp = 0; warp < kWarps; ++warp) {
        Script consumer{simulation.agent()};
        const int group = warp / 4;
        if (group == 0) consumer.pass(turn[0]);
        RingPosition<1> q;
        RingPosition<kSlots> k, v;
        int key_content = 0, value_content = 0;
        for (size_t unit = 0; unit < tiles.size(); ++unit) {
            if (tiles[unit] == 0) continue;
            const int query_content = static_cast<int>(unit);
            consumer.wait(query.full[0], q.phase);
            for (int j = 0; j <= tiles[unit]; ++j) {
                const bool scores = j < tiles[unit], output = j > 0;
                if (scores) {
                    consumer.wait(key.full[k.slot], k.phase);
                    consumer.meet(turn[group]);
                    consumer.begin(query.buffer[0], query_content);
                    consumer.begin(key.buffer[k.slot], key_content);
                } else {
                    consumer.arrive(query.empty[0]);
                    q.advance();
                }
                if (output) {
                    consumer.wait(value.full[v.slot], v.phase);
                    consumer.begin(value.buffer[v.slot], value_content);
                }
                if (scores) {
                    if (output) consumer.pass(turn[1 - group]);
                    consumer.end(query.buffer[0], query_content);
                    consumer.end(key.buffer[k.slot], key_content);
                    if (!output) consumer.pass(turn[1 - group]);
                    consumer.arrive(key.empty[k.slot]);
                    k.advance();
                    ++key_content;
                }
                if (output) {
                    consumer.end(value.buffer[v.slot], value_content);
                    consumer.arrive(value.empty[v.slot]);
                    v.advance();
                    ++value_content;
                }
            }
        }
    }
    simulation.run(random);
}

void simulate_single(std::mt19937& random, int blocks) {
    constexpr int kWarps = 4, kValueSlots = 2;
    if (blocks == 0) return;
    Simulation simulation;
    const int query_full = simulation.barrier(1), key_full = simulation.barrier(1);
    const int value_full[kValueSlots] = {simulation.barrier(1), simulation.barrier(1)};
    const int all = simulation.barrier(kWarps);
    const int query = simulation.buffer(), key = simulation.buffer();
    const int value[kValueSlots] = {simulation.buffer(), simulation.buffer()};

    for (int warp = 0; warp < kWarps; ++warp) {
        Script script{simulation.agent()};
        RingPosition<1> key_at;
        RingPosition<kValueSlots> load, at;
        const auto fetch = [&](int full, int buffer, int content) {
            if (warp != 0) return;
            script.arrive(full, 1);
            script.copy(buffer, content, full);
        };
        fetch(query_full, query, 0);
        fetch(key_full, key, 0);
        script.wait(query_full, 0);
        for (int j = 0; j <= blocks; ++j) {
            const bool scores = j < blocks, output = j > 0;
            const int slot = at.slot;
            if (scores) {
                script.wait(key_full, key_at.phase);
                key_at.advance();
                script.begin(query, 0);
                script.begin(key, j);
            }
            if (output) {
                script.wait(value_full[slot], at.phase);
                script.begin(value[slot], j - 1);
                at.advance();
            }
            if (scores) {
                script.end(query, 0);
                script.end(key, j);
                script.meet(all);
                fetch(value_full[load.slot], value[load.slot], j);
                if (j + 1 < blocks) fetch(key_full, key, j + 1);
                load.advance();
            }
            if (output) script.end(value[slot], j - 1);
        }
    }
    simulation.run(random);
}

void simulate_triple(std::mt19937& random, const Selection& s, int present) {
    constexpr int kWarps = 4 * kCubesPerBlock;
    const std::vector<KeyBlock> blocks = walk_all<kCubesPerBlock>(s, present);
    const int count = static_cast<int>(blocks.size());
    Simulation simulation;
    const SimulatedRing ring(simulation, kTripleSlots, kWarps);
    const int query_full = simulation.barrier(1), query = simulation.buffer();

    Script producer{simulation.agent()};
    RingPosition<kTripleSlots> put;
    if (count > 0) {
        producer.arrive(query_full, 1);
        producer.copy(query, 0, query_full);
    }
    for (int j = 0; j <= count; ++j, put.advance()) {
        producer.wait(ring.empty[put.slot], put.phase ^ 1);
        producer.arrive(ring.full[put.slot], j < count);  // the end mark brings no bytes
        if (j < count) producer.copy(ring.buffer[put.slot], j, ring.full[put.slot]);
    }

    for (int warp = 0; warp < kWarps; ++warp) {
        Script script{simulation.agent()};
        const int group = warp / 4;
        RingPosition<kTripleSlots> at;
        int entry = 0, steps = 0;
        const auto seek = [&](int reach) {
            for (int i = 0; i < reach; ++i) {
                script.wait(ring.full[at.slot], at.phase);
                const BlockNote note = entry < count ? BlockNote(blocks[entry]) : BlockNote();
                if (note.is_end()) return 0;
                if (note.owned_by(group)) return note.size();
                script.arrive(ring.empty[at.slot]);
                at.advance();
                ++entry;
            }
            return 0;
        };
        while (seek(0x7fffffff) > 0) {
            script.wait(query_full, 0);
            script.begin(ring.buffer[at.slot], entry);
            ++steps;
            int held = at.slot, held_entry = entry;
            at.advance();
            ++entry;
            while (seek(kTripleReach) > 0) {
                script.begin(ring.buffer[at.slot], entry);
                ++steps;
                script.end(ring.buffer[held], held_entry);
                script.arrive(ring.empty[held]);
                held = at.slot;
                held_entry = entry;
                at.advance();
                ++entry;
            }
            script.end(ring.buffer[held], held_entry);
            script.arrive(ring.empty[held]);
        }
        REQUIRE(entry == count);
        if (group < present) REQUIRE(steps == static_cast<int>(s.rows[group].size()) + (s.text + 63) / 64);
        if (group >= present) REQUIRE(steps == 0);
    }
    simulation.run(random);
}

}  // namespace

int main() {
    std::mt19937 random(3);
    test_key_tiles_cover_every_key_once_partial_first<128>(random);
    test_key_tiles_cover_every_key_once_partial_first<176>(random);
    test_key_tiles_cover_every_key_once_partial_first<192>(random);
    test_splits_partition_the_tiles(random);
    test_work_items_cover_every_query_once_per_split(random);
    test_splits_only_under_filled_grids();
    test_walk_is_the_union_of_its_rows<1>(random);
    test_walk_is_the_union_of_its_rows<3>(random);
    for (int trial = 0; trial < 300; ++trial) {
        std::vector<int> tiles(1 + below(random, 5));
        for (int& n : tiles) n = below(random, 6);
        simulate_dense(random, tiles);
        simulate_single(random, below(random, 12));
        const int present = 1 + below(random, kCubesPerBlock);
        simulate_triple(random, random_selection(random, present), present);
    }
    std::puts("sm90 schedule: every claim held");
    return 0;
}
