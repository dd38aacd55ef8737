/* An NVML without a driver, for tests: two cards, whose order by bus is not NVML's.
 *
 * FAKE_NVML names their kind: geforce (what such a card does not have is not supported), hopper, lost (the card with the
 * higher bus falls off it, after an XID), hung (a look never returns), stuck (not even the first call does). A handle is the card's number by bus, from 1.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned int u32;
typedef unsigned long long u64;
enum { OK = 0, NOT_SUPPORTED = 3, TIMEOUT = 10, LOST = 15 };
enum { XID_EVENT = 8, OFF_THE_BUS = 79, POWER_CAP = 4, THERMAL = 0x20 };

static volatile int is_lost;

static int is(const char *kind) {
    const char *name = getenv("FAKE_NVML");
    return name && !strcmp(name, kind);
}

static int put(u32 *to, u32 value) { *to = value; return OK; }

int nvmlInit_v2(void) {
    while (is("stuck")) pause();
    return OK;
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return "an error"; }
int nvmlSystemGetDriverVersion(char *to, u32 n) { strcpy(to, "580.95.05"); return OK; }

int nvmlDeviceGetCount_v2(u32 *n) { return put(n, 2); }
int nvmlDeviceGetHandleByIndex_v2(u32 index, long *card) { *card = 2 - index; return OK; }
int nvmlDeviceGetIndex(long card, u32 *index) { return put(index, 2 - card); }
int nvmlDeviceGetHandleByUUID(const char *uuid, long *card) { *card = uuid[11] - '0'; return OK; }
int nvmlDeviceGetUUID(long card, char *to, u32 n) {
    if (is_lost && card == 2) return LOST;
    sprintf(to, "GPU-0000000%ld-aaaa-bbbb-cccc-dddddddddddd", card);
    return OK;
}
int nvmlDeviceGetName(long card, char *to, u32 n) {
    strcpy(to, is("hopper") ? "NVIDIA H100 80GB HBM3" : "NVIDIA GeForce RTX 4090");
    return OK;
}
struct pci { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; };
int nvmlDeviceGetPciInfo_v3(long card, struct pci *to) {
    memset(to, 0, sizeof *to);
    sprintf(to->bus_id, "00000000:%02lX:00.0", card * 0x10);
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(long card, int *major, int *minor) {
    *major = is("hopper") ? 9 : 8;
    *minor = is("hopper") ? 0 : 9;
    return OK;
}
int nvmlDeviceGetP2PStatus(long one, long other, int what, int *status) { *status = is("hopper") ? 0 : 5; return OK; }
int nvmlDeviceGetTopologyCommonAncestor(long one, long other, int *level) { *level = 30; return OK; }

struct memory { u32 version; u64 total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(long card, struct memory *to) {
    if (is_lost && card == 2) return LOST;
    to->total = 24ULL << 30;
    to->used = 12ULL << 30;
    return OK;
}
int nvmlDeviceGetPowerUsage(long card, u32 *mw) {
    while (is("hung")) pause();
    return put(mw, 338000);
}
int nvmlDeviceGetEnforcedPowerLimit(long card, u32 *mw) { return put(mw, 450000); }
int nvmlDeviceGetUtilizationRates(long card, u32 *percent) { percent[1] = 40; return put(percent, 97); }
int nvmlDeviceGetTemperature(long card, int sensor, u32 *celsius) { return put(celsius, 71); }
int nvmlDeviceGetClockInfo(long card, int clock, u32 *mhz) { return put(mhz, 2520); }
int nvmlDeviceGetCurrPcieLinkGeneration(long card, u32 *to) { return put(to, 4); }
int nvmlDeviceGetCurrPcieLinkWidth(long card, u32 *to) { return put(to, card == 2 ? 4 : 16); }
int nvmlDeviceGetMaxPcieLinkWidth(long card, u32 *to) { return put(to, 16); }
int nvmlDeviceGetPcieThroughput(long card, int counter, u32 *kb) { return put(kb, counter ? 5900000 : 5800000); }
int nvmlDeviceGetCurrentClocksThrottleReasons(long card, u64 *bits) {
    *bits = card == 2 ? THERMAL : POWER_CAP;
    return OK;
}
int nvmlDeviceGetTotalEccErrors(long card, int kind, int counter, u64 *n) {
    *n = 0;
    return is("hopper") ? OK : NOT_SUPPORTED;
}
struct field { u32 id, scope; long long time, latency; int type, code; u64 value; };
int nvmlDeviceGetFieldValues(long card, int n, struct field *fields) {
    for (int i = 0; i < n; i++) {
        fields[i].type = 1;
        fields[i].code = is("hopper") ? OK : NOT_SUPPORTED;
        fields[i].value = 72;
    }
    return OK;
}

struct support { u32 version, is_supported; };
int nvmlGpmQueryDeviceSupport(long card, struct support *to) { to->is_supported = is("hopper"); return OK; }
int nvmlGpmSampleAlloc(long *sample) { *sample = 1; return OK; }
int nvmlGpmSampleFree(long sample) { return OK; }
int nvmlGpmSampleGet(long card, long sample) { return OK; }
struct metric { u32 id; int code; double value; char *name, *long_name, *unit; };
struct metrics { u32 version, n; long one, other; struct metric list[210]; };
int nvmlGpmMetricsGet(struct metrics *to) {
    for (u32 i = 0; i < to->n; i++) {
        struct metric *metric = &to->list[i];
        metric->code = OK;
        metric->value = 100.0 * metric->id;
        metric->name = metric->long_name = metric->unit = "";
    }
    return OK;
}

int nvmlEventSetCreate(long **set) { *set = calloc(1, sizeof **set); return OK; }
int nvmlEventSetFree(long *set) { return OK; }
int nvmlDeviceRegisterEvents(long card, u64 kinds, long *set) { *set = card; return kinds == XID_EVENT ? OK : NOT_SUPPORTED; }
struct event { long card; u64 kind, data; u32 gpu_instance, compute_instance; };
int nvmlEventSetWait_v2(long *set, struct event *to, u32 ms) {
    if (is("lost") && *set == 2 && !is_lost) {
        usleep(1500000); /* after a look at the whole machine */
        is_lost = 1;
        *to = (struct event){ .card = 2, .kind = XID_EVENT, .data = OFF_THE_BUS };
        return OK;
    }
    usleep(1000 * ms);
    return is_lost && *set == 2 ? LOST : TIMEOUT;
}
