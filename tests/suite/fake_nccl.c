/* An NCCL without GPUs, for tests of how it is found and what is told of its errors.
 *
 * VERSION is defined when it is compiled; FAKE_NCCL_FAILS makes the question for it fail.
 */
#include <stdlib.h>

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

enum { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_USAGE = 5 };

int ncclGetVersion(int *version) {
    *version = VERSION;
    return *setting("FAKE_NCCL_FAILS") ? SYSTEM_ERROR : SUCCESS;
}
const char *ncclGetErrorString(int code) { return code == SYSTEM_ERROR ? "unhandled system error" : "another error"; }
const char *ncclGetLastError(void *comm) { return "socketStartConnect: Connect failed\n: Connection refused\n"; }

#define REFUSES(function) int function(void) { return INVALID_USAGE; }
REFUSES(ncclGetUniqueId)
REFUSES(ncclCommInitRank)
REFUSES(ncclCommDestroy)
REFUSES(ncclAllReduce)
REFUSES(ncclReduce)
REFUSES(ncclBroadcast)
REFUSES(ncclReduceScatter)
REFUSES(ncclAllGather)
REFUSES(ncclSend)
REFUSES(ncclRecv)
