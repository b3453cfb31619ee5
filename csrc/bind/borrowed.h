// Borrowed: the memory behind a Python object with __dlpack__, held for the length of a call. Included by the
// bind_*.cpp files alone: nothing beyond them knows Python.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <string>

#include "../check.h"
#include "../dlpack.h"
#include "../tensor.h"

namespace sky4 {

namespace py = pybind11;

inline DType to_dtype(const Where& where, dlpack::DataType type) {
    if (type.lanes == 1) {
        if (type.code == dlpack::kFloat && type.bits == 32) return DType::float32;
        if (type.code == dlpack::kFloat && type.bits == 16) return DType::float16;
        if (type.code == dlpack::kBfloat && type.bits == 16) return DType::bfloat16;
        if (type.code == dlpack::kInt && type.bits == 32) return DType::int32;
        if (type.code == dlpack::kInt && type.bits == 64) return DType::int64;
        if (type.code == dlpack::kBool && type.bits == 8) return DType::boolean;
    }
    constexpr const char* kCodes[] = {"int", "uint", "float", "handle", "bfloat", "complex", "bool"};
    const std::string code = type.code < 7 ? kCodes[type.code] : "code " + std::to_string(type.code) + ", bits ";
    throw WrongType(where + " has dtype " + code + std::to_string(type.bits) +
                    ", expected float32, bfloat16, float16, int32, int64 or bool");
}

inline Device to_device(const Where& where, dlpack::Device device) {
    switch (device.type) {
        case dlpack::kCPU:
        case dlpack::kCUDAHost:
            return Device::cpu;
        case dlpack::kCUDA:
        case dlpack::kCUDAManaged:
            return Device::cuda;
    }
    throw WrongType(where + " is on a device of DLPack type " + std::to_string(device.type) +
                    ", expected cpu (1) or cuda (2)");
}

// Holds an object's memory for as long as the view is in use.
class Borrowed {
public:
    enum class Use { read, write };

    Borrowed(const char* kernel, const char* argument, const py::handle& object, Use use = Use::read) {
        const Where where{kernel, argument};
        dlpack::Tensor exported;
        if (exchange(where, object, use, exported)) {
            held_ = py::reinterpret_borrow<py::object>(object);
            view(where, exported);
            return;
        }
        if (!py::hasattr(object, "__dlpack__"))
            throw WrongType(where + " is a " + std::string(py::str(py::type::of(object).attr("__name__"))) +
                            ", expected a tensor with __dlpack__");
        held_ = export_capsule(object);
        view(where, take(where, use));
    }

    const TensorRef& tensor() const { return tensor_; }

private:
    // The C functions of the object's type, or null where it has none that we understand. A subclass must go the long
    // way, which it may have changed: of PyTorch's, some own no memory.
    static const dlpack::ExchangeAPI* exchange_of(const py::handle& object) {
        static PyObject* const name = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
        PyObject* const own = Py_TYPE(object.ptr())->tp_dict;
        PyObject* const capsule = own != nullptr ? PyDict_GetItem(own, name) : nullptr;
        if (capsule == nullptr || !PyCapsule_IsValid(capsule, "dlpack_exchange_api")) return nullptr;
        const auto* api = static_cast<const dlpack::ExchangeAPI*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
        return api->version.major == dlpack::kMajorVersion ? api : nullptr;
    }

    // False where the type has no such functions, or they refuse, or a gradient would be lost without a word (they do
    // not ask): __dlpack__ then does it, or says why not.
    bool exchange(const Where& where, const py::handle& object, Use use, dlpack::Tensor& to) {
        const dlpack::ExchangeAPI* api = exchange_of(object);
        if (api == nullptr || wants_gradient(object)) return false;
        if (use == Use::read && api->tensor_from_object != nullptr) {
            if (api->tensor_from_object(object.ptr(), &to) == 0) return true;
            PyErr_Clear();
            return false;
        }
        dlpack::ManagedTensorVersioned* managed = nullptr;
        if (api->managed_from_object(object.ptr(), &managed) != 0) {
            PyErr_Clear();
            return false;
        }
        managed_.reset(managed);
        to = checked(where, *managed, use);
        return true;
    }

    static bool wants_gradient(const py::handle& object) {
        static PyObject* const name = PyUnicode_InternFromString("requires_grad");
        PyObject* const wants = PyObject_GetAttr(object.ptr(), name);
        if (wants == nullptr) PyErr_Clear();
        Py_XDECREF(wants);  // a bool outlives it
        return wants == Py_True;
    }

    // The protocol's own way to tell the generations apart: producers before DLPack 1.0 know no `max_version`.
    static py::object export_capsule(const py::handle& object) {
        try {
            return object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(dlpack::kMajorVersion, 0));
        } catch (py::error_already_set& error) {
            if (!error.matches(PyExc_TypeError)) throw;
        }
        return object.attr("__dlpack__")();
    }

    // The capsule keeps its name and its destructor: it is never "consumed", and frees itself when we let it go.
    const dlpack::Tensor& take(const Where& where, Use use) const {
        PyObject* capsule = held_.ptr();
        if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
            const auto* managed =
                static_cast<const dlpack::ManagedTensorVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
            return checked(where, *managed, use);
        }
        if (PyCapsule_IsValid(capsule, "dltensor"))
            return static_cast<const dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"))->tensor;
        throw WrongType(where + " has a __dlpack__ that returns no DLPack capsule");
    }

    static const dlpack::Tensor& checked(const Where& where, const dlpack::ManagedTensorVersioned& managed, Use use) {
        if (managed.version.major != dlpack::kMajorVersion)
            throw WrongType(where + " speaks DLPack " + std::to_string(managed.version.major) + ", expected " +
                            std::to_string(dlpack::kMajorVersion));
        if (use == Use::write && (managed.flags & dlpack::kFlagReadOnly))
            throw WrongValue(where + " is read-only, expected memory that can be written");
        return managed.tensor;
    }

    void view(const Where& where, const dlpack::Tensor& from) {
        if (from.ndim < 0 || from.ndim > TensorRef::kMaxDims)
            throw WrongValue(where + " has " + std::to_string(from.ndim) + " axes, expected at most " +
                             std::to_string(TensorRef::kMaxDims));
        tensor_.device = to_device(where, from.device);
        tensor_.device_index = from.device.id;
        tensor_.dtype = to_dtype(where, from.dtype);
        tensor_.data = static_cast<char*>(from.data) + from.byte_offset;
        tensor_.ndim = from.ndim;
        int64_t contiguous = 1;
        for (int d = from.ndim - 1; d >= 0; --d) {
            tensor_.shape[d] = from.shape[d];
            tensor_.stride[d] = from.strides != nullptr ? from.strides[d] : contiguous;
            contiguous *= from.shape[d];
        }
        if (from.data == nullptr && tensor_.elements() > 0)
            throw WrongValue(where + " owns no memory (a fake tensor?), expected one that does");
        const auto address = reinterpret_cast<uintptr_t>(tensor_.data);
        const uintptr_t item = from.dtype.bits / 8;
        if (address % item != 0)
            throw WrongValue(where + " begins " + std::to_string(address % item) +
                             " bytes off, expected alignment to its " + std::to_string(item) + "-byte elements");
    }

    struct Release {
        void operator()(dlpack::ManagedTensorVersioned* managed) const {
            if (managed->deleter != nullptr) managed->deleter(managed);
        }
    };

    py::object held_;  // the tensor itself, or the capsule of its memory
    std::unique_ptr<dlpack::ManagedTensorVersioned, Release> managed_;
    TensorRef tensor_;
};

// A tensor that may be None.
inline std::optional<Borrowed> borrow_maybe(const char* kernel, const char* argument, const py::handle& object,
                                            Borrowed::Use use = Borrowed::Use::read) {
    if (object.is_none()) return std::nullopt;
    return std::make_optional<Borrowed>(kernel, argument, object, use);
}

inline std::optional<TensorRef> ref(const std::optional<Borrowed>& held) {
    if (!held) return std::nullopt;
    return held->tensor();
}

// A CUDA stream as frameworks hand it to Python: its address as a number, 0 for the default stream.
inline void* to_stream(uintptr_t stream) { return reinterpret_cast<void*>(stream); }

}  // namespace sky4
