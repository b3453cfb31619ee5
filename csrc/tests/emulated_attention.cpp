// Runs the mma.sync attention path, from its entry points on, on emulated CUDA blocks against a double-precision
// oracle.
//
// Claims, each over ragged lengths, segments, strides and both dtypes: outputs and gradients are right; nothing outside
// the outputs is written and nothing outside the inputs read; shared memory is free of races and of bank conflicts; the
// same bits come whatever order threads and blocks run in. Exit status 0 means all hold. An argument runs only the
// cases whose name contains it.
#include <cstring>
#include <initializer_list>

#include "../block_sparse_attention.h"
#include "../cuda/device.h"
#include "../joint_attention.h"
#include "emulation_sm80/tensors.h"

namespace sky4::cuda {
cudaMemPool_t temporary_pool(const char*, int) { return nullptr; }
}  // namespace sky4::cuda

namespace sky4::emulated {
namespace {

int failures = 0;
const char* only = "";

void expect(bool holds, const std::string& name, const std::string& claim) {
    if (holds) return;
    ++failures;
    std::printf("%s FAILED: %s\n", name.c_str(), claim.c_str());
}

struct Limits {
    double norm, greatest;
};

// Roundings of the weights to 16 bits, some times over; a wrong index gives errors of about 1.
Limits limits(DType dtype, bool gradient) {
    const double unit = dtype == DType::float16 ? 1.0 / 2048 : 1.0 / 256;
    return gradient ? Limits{4 * unit, 6 * unit} : Limits{1.2 * unit, 2 * unit};
}

void expect_close(const Distance& distance, const std::string& name, const std::string& what, Limits limit) {
    char text[160];
    std::snprintf(text, sizeof text, "%s off by %.3g (norm, limit %.3g), %.3g (greatest, limit %.3g)", what.c_str(),
                  distance.norm(), limit.norm, distance.greatest(), limit.greatest);
    expect(distance.norm() <= limit.norm && distance.greatest() <= limit.greatest, name, text);
}

// Everything that both ops share: tensors, the oracle's run, the comparison.
struct Case {
    std::string name;
    DType dtype = DType::bfloat16;
    int batch = 1, heads = 1, dim = 64;
    std::vector<int> query_lengths{}, key_lengths{};
    float size = 1.0f;  // of queries and keys
    bool far = false;   // rows 2^27 elements apart

    using Sees = std::function<bool(int b, int h, int query, int key)>;
    using Run = std::function<void(Case&)>;
    std::vector<Segments> tensors{};  // q k v out grad_out grad_q grad_k grad_v
    std::vector<float> lse{};

    Segments& at(int i) { return tensors[i]; }

    // Runs forward and backward twice, in different orders of threads and blocks, and compares with the oracle.
    void run(const Run& call, const Sees& sees) {
        if (name.find(only) == std::string::npos) return;
        std::printf("%s: ", name.c_str());
        std::fflush(stdout);
        const int failures_before = failures;
        std::mt19937 random(static_cast<unsigned>(std::hash<std::string>()(name)));
        const std::vector<int> all_queries{total(query_lengths)};
        for (int i = 0; i < 8; ++i) {
            const bool of_keys = i == 1 || i == 2 || i == 6 || i == 7, joint = i == 3 || i == 4;
            tensors.emplace_back(dtype, batch,
                                 of_keys ? key_lengths
                                 : joint ? all_queries
                                         : query_lengths,
                                 heads, dim, i);
        }
        for (int i : {0, 1, 2, 4}) at(i).randomize(random, i < 2 ? size : 1.0f);
        lse.assign(static_cast<size_t>(batch) * heads * total(query_lengths), 12345.0f);

        block().bank_conflicts = 0;
        block().stride = 1;
        device().first_block = 0;
        call(*this);
        const std::vector<float> first_lse = lse;
        std::vector<Matrix> first;
        for (int i = 3; i < 8; ++i) first.push_back(at(i).rows(batch - 1, heads - 1, dim));
        block().stride = 93;
        device().first_block = 1;
        call(*this);
        bool same = std::memcmp(first_lse.data(), lse.data(), lse.size() * sizeof(float)) == 0;
        for (int i = 3; i < 8; ++i) same = same && first[i - 3] == at(i).rows(batch - 1, heads - 1, dim);
        expect(same, name, "other bits in another order of threads");
        expect(block().bank_conflicts == 0, name, std::to_string(block().bank_conflicts) + " bank conflicts");
        compare(sees);
        if (failures == failures_before) std::printf("ok\n");
    }

    void compare(const Sees& sees) {
        Distance out, row_lse, grad_q, grad_k, grad_v;
        const int queries = total(query_lengths);
        for (int b = 0; b < batch; ++b)
            for (int h = 0; h < heads; ++h) {
                const Oracle oracle(at(0).rows(b, h, dim), at(1).rows(b, h, dim), at(2).rows(b, h, dim),
                                    at(4).rows(b, h, dim), 1.0 / std::sqrt(dim),
                                    [&](int query, int key) { return sees(b, h, query, key); });
                at(3).compare(out, b, h, oracle.out);
                at(5).compare(grad_q, b, h, oracle.grad_q);
                at(6).compare(grad_k, b, h, oracle.grad_k);
                at(7).compare(grad_v, b, h, oracle.grad_v);
                for (int i = 0; i < queries; ++i) {
                    const float got = lse[(static_cast<size_t>(b) * heads + h) * queries + i];
                    if (std::isinf(oracle.lse[i]) || std::isinf(got))
                        row_lse.add(got == static_cast<float>(oracle.lse[i]) ? 0.0 : 1e30, 0.0);
                    else
                        row_lse.add(got, oracle.lse[i]);
                }
            }
        expect_close(out, name, "out", limits(dtype, false));
        expect_close(row_lse, name, "lse", {1e-5, 1e-5});
        expect_close(grad_q, name, "grad_queries", limits(dtype, true));
        expect_close(grad_k, name, "grad_keys", limits(dtype, true));
        expect_close(grad_v, name, "grad_values", limits(dtype, true));
        const char* names[] = {"", "", "", "out", "", "grad_queries", "grad_keys", "grad_values"};
        for (int i : {3, 5, 6, 7})
            expect(at(i).surroundings_untouched(), name,
                   std::string(names[i]) + ": written outside, or not written all over");
    }
};

TensorRef lse_ref(Case& c) {
    TensorRef x;
    x.data = c.lse.data();
    x.dtype = DType::float32;
    x.device = Device::cuda;
    x.ndim = 3;
    const int64_t queries = total(c.query_lengths);
    x.shape = {c.batch, c.heads, queries};
    x.stride = {c.heads * queries, queries, 1};
    return x;
}

// counts[s][b]: keys of segment s that count in sample b; an empty list for all of them.
void joint(Case c, std::vector<std::vector<int>> counts = {}, int launches = 4) {
    counts.resize(c.key_lengths.size());
    const auto call = [&](Case& c) {
        JointAttention forward;
        forward.queries = c.at(0).refs();
        forward.keys = c.at(1).refs();
        forward.values = c.at(2).refs();
        for (size_t s = 0; s < counts.size(); ++s)
            if (!counts[s].empty()) forward.lengths[s] = ints(counts[s]);
        forward.out = c.at(3).part[0].ref();
        forward.scale = 1.0f / std::sqrt(static_cast<float>(c.dim));
        cuda::joint_attention(forward);  // lse is optional
        forward.lse = lse_ref(c);
        device().launches = 0;
        cuda::joint_attention(forward);
        JointAttentionBackward backward;
        backward.forward = forward;
        backward.grad_out = c.at(4).part[0].ref();
        backward.grad_queries = c.at(5).refs();
        backward.grad_keys = c.at(6).refs();
        backward.grad_values = c.at(7).refs();
        cuda::joint_attention_backward(backward);
        expect(device().launches == launches, c.name, std::to_string(device().launches) + " kernels launched");
    };
    c.run(call, [&](int b, int, int, int key) {
        size_t s = 0;
        while (key >= c.key_lengths[s]) key -= c.key_lengths[s++];
        return counts[s].empty() || key < counts[s][b];
    });
}

// Cubes of the given sizes; chosen(b, h, query cube, key cube) is the selection; text keys are the second key segment.
void sparse(Case c, const std::vector<int>& query_cubes, const std::vector<int>& key_cubes,
            const std::function<bool(int, int, int, int)>& chosen, std::vector<int> text_counts = {}) {
    std::vector<int> query_starts{0}, key_starts{0}, cube_of_query, cube_of_key;
    const auto lay = [](const std::vector<int>& cubes, std::vector<int>& starts, std::vector<int>& owner) {
        for (size_t i = 0; i < cubes.size(); ++i) {
            starts.push_back(starts.back() + cubes[i]);
            owner.insert(owner.end(), cubes[i], static_cast<int>(i));
        }
    };
    lay(query_cubes, query_starts, cube_of_query);
    lay(key_cubes, key_starts, cube_of_key);
    c.query_lengths = {query_starts.back()};
    c.key_lengths.insert(c.key_lengths.begin(), key_starts.back());
    const int rows = static_cast<int>(query_cubes.size()), columns = static_cast<int>(key_cubes.size());
    const int words = (columns + 31) / 32;
    std::vector<int> bits(static_cast<size_t>(c.batch) * c.heads * rows * words, 0);
    for (int b = 0; b < c.batch; ++b)
        for (int h = 0; h < c.heads; ++h)
            for (int row = 0; row < rows; ++row)
                for (int column = 0; column < 32 * words; ++column)  // bits past the last cube are set, to be ignored
                    if (column >= columns || chosen(b, h, row, column))
                        bits[((b * c.heads + h) * rows + row) * words + column / 32] |=
                            static_cast<int>(1u << column % 32);
    // Behind the starts lie more that look like cubes: whoever reads on attends to them.
    std::vector<int> query_starts_and_more = query_starts, key_starts_and_more = key_starts;
    for (int i = 0; i < 32; ++i)
        for (auto* more : {&query_starts_and_more, &key_starts_and_more}) more->push_back(i % 2 ? 3 : 0);
    const auto call = [&](Case& c) {
        BlockSparseAttention forward;
        forward.queries = c.at(0).part[0].ref();
        forward.keys = c.at(1).part[0].ref();
        forward.values = c.at(2).part[0].ref();
        forward.query_starts = ints(query_starts_and_more);
        forward.query_starts.shape[0] = rows + 1;
        forward.key_starts = ints(key_starts_and_more);
        forward.key_starts.shape[0] = columns + 1;
        forward.selected = ints(bits);
        forward.selected.ndim = 4;
        forward.selected.shape = {c.batch, c.heads, rows, words};
        BlockSparseAttentionBackward backward;
        if (c.key_lengths.size() > 1) {
            forward.text_keys = c.at(1).part[1].ref();
            forward.text_values = c.at(2).part[1].ref();
            if (!text_counts.empty()) forward.text_lengths = ints(text_counts);
            backward.grad_text_keys = c.at(6).part[1].ref();
            backward.grad_text_values = c.at(7).part[1].ref();
        }
        forward.out = c.at(3).part[0].ref();
        forward.lse = lse_ref(c);
        forward.scale = 1.0f / std::sqrt(static_cast<float>(c.dim));
        cuda::block_sparse_attention(forward);
        backward.forward = forward;
        backward.grad_out = c.at(4).part[0].ref();
        backward.grad_queries = c.at(5).part[0].ref();
        backward.grad_keys = c.at(6).part[0].ref();
        backward.grad_values = c.at(7).part[0].ref();
        cuda::block_sparse_attention_backward(backward);
    };
    c.run(call, [&](int b, int h, int query, int key) {
        if (key >= key_starts.back()) return text_counts.empty() || key - key_starts.back() < text_counts[b];
        return chosen(b, h, cube_of_query[query], cube_of_key[key]);
    });
}

void joint_cases() {
    const DType bf16 = DType::bfloat16, fp16 = DType::float16;
    joint({"joint: one tile", bf16, 1, 1, 64, {64}, {64}});
    joint({"joint: one query, one key", fp16, 1, 2, 32, {1}, {1}});
    joint({"joint: ragged, 32 channels", bf16, 2, 1, 32, {129, 1}, {65, 64}});
    joint({"joint: ragged, 64 channels", fp16, 1, 2, 64, {63, 70}, {127, 1, 77}});
    joint({"joint: ragged, 96 channels", bf16, 1, 1, 96, {130}, {33, 100}});
    joint({"joint: ragged, 128 channels", fp16, 1, 1, 128, {31, 65}, {97, 40}});
    joint({"joint: bfloat16, 128 channels", bf16, 1, 1, 128, {140}, {96}});
    joint({"joint: key lengths per sample", bf16, 3, 1, 64, {40}, {70, 80}}, {{70, 3, 0}, {0, 80, 64}});
    joint({"joint: a sample without keys", bf16, 2, 1, 32, {70}, {70}}, {{0, 65}});
    joint({"joint: lengths out of range are clamped", bf16, 2, 1, 32, {20}, {30}}, {{30, 0}});
    joint({"joint: empty segments", fp16, 1, 1, 32, {0, 30, 0}, {0, 40, 0}});
    joint({"joint: no keys at all", bf16, 1, 1, 32, {30}, {0}}, {}, 3);
    joint({"joint: large scores", bf16, 1, 1, 64, {33}, {150}, 5.0f});
    joint({"joint: offsets beyond 2^31", bf16, 1, 1, 32, {20}, {70}, 1.0f, true});
    device().multiprocessors = 4;
    joint({"joint: keys split", bf16, 1, 1, 64, {20, 5}, {600, 77}}, {}, 5);
    joint({"joint: keys split, some splits empty", fp16, 2, 1, 32, {20}, {600, 77}}, {{100, 0}, {0, 0}}, 5);
    device().multiprocessors = 1;
}

void sparse_cases() {
    const DType bf16 = DType::bfloat16, fp16 = DType::float16;
    const auto all = [](int, int, int, int) { return true; };
    const auto none = [](int, int, int, int) { return false; };
    const auto some = [](int b, int h, int row, int column) {
        return row % 5 != 3 && (row * 7 + column * 11 + h * 5 + b * 3) % 7 < 2;  // query cubes 3, 8, ... select nothing
    };
    const auto few = [](int b, int h, int row, int column) { return (row * 7 + column * 11 + h * 5 + b * 3) % 23 < 2; };
    std::vector<int> many;  // more than two words of small cubes
    for (int i = 0; i < 70; ++i) many.push_back(1 + i * 5 % 9);
    sparse({"sparse: all is dense", bf16, 1, 1, 64, {}, {}}, {64, 64}, {64, 64}, all);
    sparse({"sparse: ragged cubes, text", bf16, 1, 2, 64, {}, {77}}, {64, 1, 15, 16, 17, 63}, {17, 64, 1, 63, 16},
           some);
    sparse({"sparse: nothing selected, no text", bf16, 1, 1, 32, {}, {}}, {30, 64}, {64, 5}, none);
    sparse({"sparse: nothing selected, text", fp16, 2, 1, 32, {}, {70}}, {30, 64}, {64, 5}, none, {70, 0});
    sparse({"sparse: many cubes", fp16, 1, 1, 32, {}, {}}, many, many, few);
    sparse({"sparse: many key cubes, text lengths", bf16, 2, 1, 32, {}, {40}}, {64, 40}, many, some, {11, 40});
    sparse({"sparse: 96 channels", fp16, 1, 1, 96, {}, {20}}, {64, 33}, {40, 64, 9}, some);
    sparse({"sparse: 128 channels", bf16, 1, 1, 128, {}, {20}}, {64, 33, 7}, {40, 64, 64}, some);
    sparse({"sparse: empty text", bf16, 1, 1, 32, {}, {0}}, {64, 3}, {40, 64}, all);
}

void expect_refusal(const std::string& name, const JointAttention& args, const std::string& wanted) {
    std::string said = "nothing";
    try {
        cuda::joint_attention(args);
    } catch (const std::exception& error) {
        said = error.what();
    }
    expect(said.find(wanted) != std::string::npos, name, "said: " + said);
}

void refusals() {
    Tensor x(DType::bfloat16, 1, 8, 1, 32, Order::tokens_first), out(DType::bfloat16, 1, 8, 1, 32, Order::tokens_first);
    JointAttention args;
    args.queries.count = args.keys.count = args.values.count = 1;
    args.queries.part[0] = args.keys.part[0] = args.values.part[0] = x.ref();
    args.out = out.ref();
    device().capability = 75;
    expect_refusal("refusal: an old GPU", args, "compute capability 7.5, expected at least 8.0");
    device().capability = 90;
    setenv("SKY4_CUDA_PATH", "fast", 1);
    expect_refusal("refusal: an unknown path", args, "SKY4_CUDA_PATH is \"fast\", expected mma");
    unsetenv("SKY4_CUDA_PATH");
    device().capability = 80;
    args.scale = 0.0f;
    expect_refusal("refusal: a scale of zero", args, "scale is 0.000000, expected a positive number");
    args.scale = 1.0f;
    args.keys.part[0].data = args.keys.part[0].as<uint16_t>() + 1;
    expect_refusal("refusal: unaligned rows", args, "keys[0] has heads that begin off 16-byte boundaries");
}

}  // namespace
}  // namespace sky4::emulated

int main(int count, char** arguments) {
    using namespace sky4::emulated;
    if (count > 1) only = arguments[1];
    joint_cases();
    sparse_cases();
    refusals();
    std::printf("%d failures\n", failures);
    return failures > 0;
}
