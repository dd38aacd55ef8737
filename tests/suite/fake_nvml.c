/* An NVML without a driver, for tests: cards whose order by bus is not NVML's.
 *
 * FAKE_NVML names their kind: geforce (what such a card does not have is not supported), hopper; the others are geforce
 * whose second card is odd: lost (it falls off the bus, after an XID), silent (it comes to answer nothing any more),
 * mute (it has no handle), mig (it is cut into parts); or the driver: hung (a look never returns), stuck (not even the
 * first call does).
 * FAKE_NVML_CARDS is their number (2), FAKE_NVML_FAILS a function that is not supported, FAKE_NVML_XID an XID error of
 * the second card, FAKE_NVML_GONE a file: once it is there, the second card is not. A handle is the card's number by bus,
 * from 1.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned int u32;
typedef unsigned long long u64;
enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10, LOST = 15, UNKNOWN = 999 };
enum { XID_EVENT = 8, OFF_THE_BUS = 79, POWER_CAP = 4, THERMAL = 0x20, MEMORY_TEMPERATURE = 82 };

static volatile int is_lost, is_told;
static double begin;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static int is(const char *kind) { return !strcmp(setting("FAKE_NVML"), kind); }

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static long n_cards(void) {
    long n = atol(setting("FAKE_NVML_CARDS"));
    return n ? n : 2;
}

static int is_gone(void) { return *setting("FAKE_NVML_GONE") && !access(setting("FAKE_NVML_GONE"), F_OK); }

static int refusal(const char *function, long card) {
    if (!strcmp(setting("FAKE_NVML_FAILS"), function)) return NOT_SUPPORTED;
    if (card == 2 && (is_lost || is_gone())) return LOST;
    if (card == 2 && is("silent") && seconds() > begin + 2.5) return UNKNOWN;
    return OK;
}

#define ANSWER(card) do { int code = refusal(__func__, card); if (code) return code; } while (0)

static int put(u32 *to, u32 value) { *to = value; return OK; }

int nvmlInit_v2(void) {
    ANSWER(0);
    while (is("stuck")) pause();
    if (!begin) begin = seconds();
    return OK;
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return "an error"; }
int nvmlSystemGetDriverVersion(char *to, u32 n) { ANSWER(0); strcpy(to, "580.95.05"); return OK; }

int nvmlDeviceGetCount_v2(u32 *n) { ANSWER(0); return put(n, n_cards() - is_gone()); }
int nvmlDeviceGetHandleByIndex_v2(u32 index, long *card) {
    ANSWER(0);
    *card = n_cards() - index;
    if (is_gone() && *card <= 2) *card -= 1;
    return is("mute") && *card == 2 ? UNKNOWN : OK;
}
int nvmlDeviceGetIndex(long card, u32 *index) {
    ANSWER(card);
    return put(index, n_cards() - card - (is_gone() && card == 1));
}
int nvmlDeviceGetHandleByUUID(const char *uuid, long *card) {
    ANSWER(0);
    *card = atol(uuid + 4);
    return is_gone() && *card == 2 ? NOT_FOUND : OK;
}
int nvmlDeviceGetUUID(long card, char *to, u32 n) {
    ANSWER(card);
    sprintf(to, "GPU-%08ld-aaaa-bbbb-cccc-dddddddddddd", card);
    return OK;
}
int nvmlDeviceGetName(long card, char *to, u32 n) {
    ANSWER(card);
    strcpy(to, is("hopper") ? "NVIDIA H100 80GB HBM3" : "NVIDIA GeForce RTX 4090");
    return OK;
}
int nvmlDeviceGetMigMode(long card, u32 *current, u32 *pending) {
    ANSWER(card);
    put(pending, 0);
    put(current, card == 2 && is("mig"));
    return is("mig") ? OK : NOT_SUPPORTED;
}
struct pci { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; };
int nvmlDeviceGetPciInfo_v3(long card, struct pci *to) {
    ANSWER(card);
    memset(to, 0, sizeof *to);
    sprintf(to->bus_id, "00000000:%02lX:00.0", card * 8);
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(long card, int *major, int *minor) {
    ANSWER(card);
    *major = is("hopper") ? 9 : 8;
    *minor = is("hopper") ? 0 : 9;
    return OK;
}
int nvmlDeviceGetP2PStatus(long one, long other, int what, int *status) {
    ANSWER(one);
    *status = is("hopper") ? 0 : 5;
    return OK;
}
int nvmlDeviceGetTopologyCommonAncestor(long one, long other, int *level) { ANSWER(one); *level = 30; return OK; }

struct memory { u32 version; u64 total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(long card, struct memory *to) {
    ANSWER(card);
    if (to->version != (sizeof *to | 2 << 24)) return INVALID;
    to->total = 24ULL << 30;
    to->used = 12ULL << 30;
    return OK;
}
int nvmlDeviceGetPowerUsage(long card, u32 *mw) {
    ANSWER(card);
    while (is("hung")) pause();
    return put(mw, 338000);
}
int nvmlDeviceGetTotalEnergyConsumption(long card, u64 *mj) {
    ANSWER(card);
    *mj = 1e9 + 338e3 * seconds();
    return is("hopper") ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetEnforcedPowerLimit(long card, u32 *mw) { ANSWER(card); return put(mw, 450000); }
int nvmlDeviceGetUtilizationRates(long card, u32 *percent) { ANSWER(card); percent[1] = 40; return put(percent, 97); }
int nvmlDeviceGetTemperature(long card, int sensor, u32 *celsius) { ANSWER(card); return put(celsius, 71); }
int nvmlDeviceGetClockInfo(long card, int clock, u32 *mhz) { ANSWER(card); return put(mhz, 2520); }
int nvmlDeviceGetMaxClockInfo(long card, int clock, u32 *mhz) { ANSWER(card); return put(mhz, 3105); }
int nvmlDeviceGetNumFans(long card, u32 *n) { ANSWER(card); put(n, 2); return is("hopper") ? NOT_SUPPORTED : OK; }
int nvmlDeviceGetFanSpeed_v2(long card, u32 fan, u32 *percent) {
    ANSWER(card);
    put(percent, fan ? 55 : 40);
    return is("hopper") ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetCurrPcieLinkGeneration(long card, u32 *to) { ANSWER(card); return put(to, 4); }
int nvmlDeviceGetCurrPcieLinkWidth(long card, u32 *to) { ANSWER(card); return put(to, card == 2 ? 4 : 16); }
int nvmlDeviceGetMaxPcieLinkWidth(long card, u32 *to) { ANSWER(card); return put(to, 16); }
int nvmlDeviceGetPcieReplayCounter(long card, u32 *to) { ANSWER(card); return put(to, 3); }
int nvmlDeviceGetPcieThroughput(long card, int counter, u32 *kb) {
    ANSWER(card);
    return put(kb, counter ? 5900000 : 5800000);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(long card, u64 *bits) {
    ANSWER(card);
    *bits = card == 2 ? THERMAL : POWER_CAP;
    return OK;
}
int nvmlDeviceGetTotalEccErrors(long card, int kind, int counter, u64 *n) {
    ANSWER(card);
    *n = 0;
    return is("hopper") ? OK : NOT_SUPPORTED;
}
struct field { u32 id, scope; long long time, latency; int type, code; u64 value; };
int nvmlDeviceGetFieldValues(long card, int n, struct field *fields) {
    ANSWER(card);
    for (int i = 0; i < n; i++) {
        fields[i].type = 1;
        fields[i].code = is("hopper") && fields[i].id == MEMORY_TEMPERATURE ? OK : NOT_SUPPORTED;
        fields[i].value = 72;
    }
    return OK;
}

struct support { u32 version, is_supported; };
int nvmlGpmQueryDeviceSupport(long card, struct support *to) {
    ANSWER(card);
    to->is_supported = is("hopper");
    return to->version == 1 ? OK : INVALID;
}
struct sample { long card; double at; };
int nvmlGpmSampleAlloc(struct sample **sample) { ANSWER(0); *sample = calloc(1, sizeof **sample); return OK; }
int nvmlGpmSampleFree(struct sample *sample) { free(sample); return OK; }
int nvmlGpmSampleGet(long card, struct sample *sample) {
    ANSWER(card);
    *sample = (struct sample){ card, seconds() };
    return OK;
}
struct metric { u32 id; int code; double value; char *name, *long_name, *unit; };
struct metrics { u32 version, n; struct sample *one, *other; struct metric list[210]; };
int nvmlGpmMetricsGet(struct metrics *to) {
    ANSWER(0);
    /* The driver asks for 100 ms between two samples, the older one first. */
    int is_sound = to->version == 1 && to->one->card == to->other->card && to->one->at + 0.1 <= to->other->at;
    if (!is_sound) return INVALID;
    for (u32 i = 0; i < to->n; i++) {
        struct metric *metric = &to->list[i];
        metric->code = OK;
        metric->value = (metric->id < 20 ? 7.0 : 100.0) * metric->id; /* percent, MiB a second */
        metric->name = metric->long_name = metric->unit = "";
    }
    return OK;
}

int nvmlEventSetCreate(long **set) { ANSWER(0); *set = calloc(1, sizeof **set); return OK; }
int nvmlEventSetFree(long *set) { return OK; }
int nvmlDeviceRegisterEvents(long card, u64 kinds, long *set) {
    ANSWER(card);
    *set = card;
    return kinds == XID_EVENT ? OK : NOT_SUPPORTED;
}
struct event { long card; u64 kind, data; u32 gpu_instance, compute_instance; };
int nvmlEventSetWait_v2(long *set, struct event *to, u32 ms) {
    ANSWER(*set);
    long xid = is("lost") ? OFF_THE_BUS : atol(setting("FAKE_NVML_XID"));
    if (xid && *set == 2 && !is_told) {
        usleep(1500000); /* after a look at the whole machine */
        is_told = 1;
        is_lost = is("lost");
        *to = (struct event){ .card = 2, .kind = XID_EVENT, .data = xid };
        return OK;
    }
    usleep(1000 * ms);
    return TIMEOUT;
}
