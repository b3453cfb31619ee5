// sky4._C: the one door between Python and the kernels. Any object with __dlpack__ is a tensor here; each kernel's own
// binding stands in bind/.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <exception>
#include <sstream>
#include <string>
#include <vector>

#include "bind/kernels.h"
#include "check.h"

namespace py = pybind11;

namespace {

std::vector<std::string> cuda_archs() {
    std::vector<std::string> archs;
#ifdef SKY4_CUDA_ARCHS
    std::istringstream all(SKY4_CUDA_ARCHS);
    for (std::string arch; std::getline(all, arch, ',');) archs.push_back(arch);
#endif
    return archs;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
    module.doc() = "The native kernels of sky4. Tensors are any objects with __dlpack__ (PyTorch, NumPy, CuPy, JAX).";
    // Called for what the kernels throw; std::invalid_argument, which WrongValue is, becomes ValueError by itself.
    py::register_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(thrown);
        } catch (const sky4::WrongType& error) {
            PyErr_SetString(PyExc_TypeError, error.what());
        }
    });
    module.def("cuda_archs", &cuda_archs, "The GPU architectures that CUDA kernels are built in for; empty: none.");
    sky4::bind_block_sparse_attention(module);
    sky4::bind_isa(module);
    sky4::bind_joint_attention(module);
    sky4::bind_latent_assemble(module);
    sky4::bind_qk_norm_rope(module);
    sky4::bind_select_cubes(module);
}
