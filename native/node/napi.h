/*
 * The part of Node's stable C interface (Node-API 8) that plane.c uses, so that no headers of Node are needed to build
 * it. https://nodejs.org/api/n-api.html
 */
#ifndef IPCCTL_NAPI_H
#define IPCCTL_NAPI_H

#include <stddef.h>
#include <stdint.h>

typedef struct napi_env__ *napi_env;
typedef struct napi_value__ *napi_value;
typedef struct napi_callback_info__ *napi_callback_info;
typedef int napi_status; /* 0 is napi_ok */
typedef napi_value (*napi_callback)(napi_env env, napi_callback_info info);
typedef void (*napi_finalize)(napi_env env, void *data, void *hint);

napi_status napi_get_cb_info(
	napi_env env, napi_callback_info info, size_t *argc, napi_value *argv, napi_value *self, void **data);
napi_status napi_get_value_int32(napi_env env, napi_value value, int32_t *result);
napi_status napi_get_value_int64(napi_env env, napi_value value, int64_t *result);
napi_status napi_get_value_string_utf8(napi_env env, napi_value value, char *buffer, size_t size, size_t *result);
napi_status napi_get_typedarray_info(
	napi_env env, napi_value array, int *type, size_t *length, void **data, napi_value *buffer, size_t *offset);
napi_status napi_create_int64(napi_env env, int64_t value, napi_value *result);
napi_status napi_create_string_utf8(napi_env env, const char *text, size_t length, napi_value *result);
napi_status napi_create_external_arraybuffer(
	napi_env env, void *data, size_t size, napi_finalize finalize, void *hint, napi_value *result);
napi_status napi_create_function(
	napi_env env, const char *name, size_t length, napi_callback callback, void *data, napi_value *result);
napi_status napi_set_named_property(napi_env env, napi_value object, const char *name, napi_value value);

#endif
