// The dense sm_90a kernel's arithmetic on the host: the same key tiles in the same order, the same running softmax, the
// same two roundings (P before P V, O at the end) and the same combination of splits, judged by FlashAttention's rule:
// at most twice the error of the plain computation in bfloat16, plus the rounding of the result itself.
//
// g++ -std=c++17 -O2 csrc/tests/sm90_numerics.cpp && ./a.out
#include <algorithm>
#include <cmath>
#include <limits>

#include "../cuda/sm90/schedule.h"
#include "../tensor.h"
#include "simulate.h"

using namespace sky4::cuda::sm90;

namespace {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

float rounded(float x) { return sky4::to_float(sky4::from_float<sky4::bf16>(x)); }

using Row = std::vector<float>;

// Keys and values of up to four segments; `length` of each count.
struct Problem {
    int d = 0;
    float scale = 0.0f;
    int length[kMaxSegments] = {};
    std::vector<Row> keys[kMaxSegments], values[kMaxSegments];
    std::vector<Row> queries;
};

struct Result {
    Row out;
    float lse;
};

float dot(const Row& a, const Row& b) {
    float sum = 0.0f;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}

// Dense::consume for one query row.
template <int kTile>
Result kernel_row(const Problem& problem, const Row& query, TileRange range) {
    const KeyTiles<kTile> tiles(problem.length);
    const float scale_log2 = problem.scale * kLog2E;
    float max = -kInfinity, sum = 0.0f;
    Row output(problem.d, 0.0f), probabilities(kTile, 0.0f);
    KeyTile last{};
    const auto add_output = [&] {
        for (int i = 0; i < last.valid; ++i)
            for (int c = 0; c < problem.d; ++c)
                output[c] += probabilities[i] * problem.values[last.segment][last.row + i][c];
    };
    for (int j = range.begin; j < range.end; ++j) {
        const KeyTile tile = tiles.at(j);
        Row scores(kTile, -kInfinity);
        for (int i = 0; i < tile.valid; ++i) scores[i] = dot(query, problem.keys[tile.segment][tile.row + i]);
        if (j > range.begin) add_output();
        const float old = max;
        for (float s : scores) max = std::max(max, s);
        const float shrink = std::exp2((old - max) * scale_log2);
        sum *= shrink;
        for (int i = 0; i < kTile; ++i) {
            const float p = std::exp2(scores[i] * scale_log2 - max * scale_log2);
            sum += p;
            probabilities[i] = rounded(p);
        }
        for (float& o : output) o *= shrink;
        last = tile;
    }
    if (range.begin < range.end) add_output();
    for (float& o : output) o *= sum == 0.0f ? 0.0f : 1.0f / sum;
    return {output, sum == 0.0f ? -kInfinity : (max * scale_log2 + std::log2(sum)) * kLn2};
}

template <int kTile>
Result kernel(const Problem& problem, const Row& query, int splits) {
    const int total = KeyTiles<kTile>(problem.length).total;
    std::vector<Result> parts;
    for (int i = 0; i < splits; ++i) parts.push_back(kernel_row<kTile>(problem, query, split_range(total, i, splits)));
    Result result{Row(problem.d, 0.0f), -kInfinity};
    if (splits == 1) {
        result = parts[0];
    } else {  // combine.cu
        float largest = -kInfinity, sum = 0.0f;
        for (const Result& part : parts) largest = std::max(largest, part.lse);
        if (largest > -kInfinity) {
            for (const Result& part : parts) sum += std::exp(part.lse - largest);
            for (const Result& part : parts)
                for (int c = 0; c < problem.d; ++c) result.out[c] += std::exp(part.lse - largest) / sum * part.out[c];
            result.lse = largest + std::log(sum);
        }
    }
    for (float& o : result.out) o = rounded(o);
    return result;
}

// softmax(scale q k) v in double, and as torch does it in bfloat16 throughout.
void references(const Problem& problem, const Row& query, std::vector<double>& exact, double& lse, Row& plain) {
    std::vector<double> scores;
    Row low;
    std::vector<const Row*> values;
    for (int s = 0; s < kMaxSegments; ++s)
        for (int i = 0; i < problem.length[s]; ++i) {
            const Row& key = problem.keys[s][i];
            double score = 0.0;
            Row scaled(problem.d);
            for (int c = 0; c < problem.d; ++c) {
                score += static_cast<double>(query[c]) * key[c];
                scaled[c] = rounded(key[c] * problem.scale);
            }
            scores.push_back(score * problem.scale);
            low.push_back(rounded(dot(query, scaled)));
            values.push_back(&problem.values[s][i]);
        }
    exact.assign(problem.d, 0.0);
    plain.assign(problem.d, 0.0f);
    lse = -std::numeric_limits<double>::infinity();
    if (scores.empty()) return;
    const double top = *std::max_element(scores.begin(), scores.end());
    const float low_top = *std::max_element(low.begin(), low.end());
    double sum = 0.0;
    float low_sum = 0.0f;
    for (double s : scores) sum += std::exp(s - top);
    for (float s : low) low_sum += std::exp(s - low_top);
    for (size_t i = 0; i < scores.size(); ++i)
        for (int c = 0; c < problem.d; ++c) {
            exact[c] += std::exp(scores[i] - top) / sum * (*values[i])[c];
            plain[c] += rounded(std::exp(low[i] - low_top) / low_sum) * (*values[i])[c];
        }
    for (float& x : plain) x = rounded(x);
    lse = top + std::log(sum);
}

Problem random_problem(std::mt19937& random, int d, int queries, const std::vector<int>& lengths) {
    std::normal_distribution<float> normal;
    const auto row = [&] {
        Row x(d);
        for (float& v : x) v = rounded(normal(random));
        return x;
    };
    Problem problem;
    problem.d = d;
    problem.scale = 1.0f / std::sqrt(static_cast<float>(d));
    for (size_t s = 0; s < lengths.size(); ++s) {
        problem.length[s] = lengths[s];
        for (int i = 0; i < lengths[s]; ++i) {
            problem.keys[s].push_back(row());
            problem.values[s].push_back(row());
        }
    }
    for (int i = 0; i < queries; ++i) problem.queries.push_back(row());
    return problem;
}

template <int kTile>
void test_error_is_at_most_twice_that_of_plain_bfloat16(std::mt19937& random, int d, const std::vector<int>& lengths,
                                                        int splits) {
    const Problem problem = random_problem(random, d, 8, lengths);
    double ours = 0.0, theirs = 0.0, rounding = 0.0;
    for (const Row& query : problem.queries) {
        std::vector<double> exact;
        double lse;
        Row plain;
        references(problem, query, exact, lse, plain);
        const Result result = kernel<kTile>(problem, query, splits);
        for (int c = 0; c < d; ++c) {
            ours = std::max(ours, std::abs(result.out[c] - exact[c]));
            theirs = std::max(theirs, std::abs(plain[c] - exact[c]));
            const double noise = std::abs(static_cast<double>(static_cast<float>(exact[c]) + 0.3f - 0.3f) - exact[c]);
            rounding = std::max(rounding, 2.0 * noise);
        }
        REQUIRE(std::isinf(lse) ? result.lse == -kInfinity : std::abs(result.lse - lse) < 1e-4);
    }
    REQUIRE(ours <= 2.0 * theirs + rounding);
}

}  // namespace

int main() {
    std::mt19937 random(5);
    const std::vector<std::vector<int>> cases = {
        {1},        {128},       {192}, {256},  {3},    {203},    {217},      {211},        {512},
        {1024},     {1023},      {175}, {176},  {177},  {218},    {63, 77},   {64, 512},    {65, 1},
        {127, 77},  {1000, 512}, {0},   {0, 0}, {0, 5}, {352, 0}, {176, 128}, {1, 1, 1, 1}, {200, 0, 300, 7},
        {2047, 512}};
    for (const std::vector<int>& lengths : cases)
        for (int splits : {1, 3}) {
            test_error_is_at_most_twice_that_of_plain_bfloat16<176>(random, 128, lengths, splits);
            test_error_is_at_most_twice_that_of_plain_bfloat16<128>(random, 128, lengths, splits);
            test_error_is_at_most_twice_that_of_plain_bfloat16<192>(random, 64, lengths, splits);
            test_error_is_at_most_twice_that_of_plain_bfloat16<64>(random, 64, lengths, splits);
        }
    std::puts("sm90 numerics: every claim held");
    return 0;
}
