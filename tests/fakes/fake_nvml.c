/* A driver library without a driver: libnvidia-ml.so.1 as nvidia-ml-py asks for it.
 *
 * Everything is told by the file `knobs` beside the library, read anew at each call: one
 * `name value` per line (integers). Names:
 *   gpus                                       how many there are (1)
 *   init.error, count.error                    NVML error codes, 0 is none
 *   <gpu>.utilization (percent), <gpu>.memory_used, <gpu>.memory_total, <gpu>.memory_reserved
 *   (bytes), <gpu>.power (milliwatts), <gpu>.temperature (degrees Celsius)
 *   <gpu>.reasons (NVML's mask of clock event reasons), <gpu>.energy (millijoules), <gpu>.ecc, <gpu>.remapped
 *   <gpu>.open.error, <gpu>.<figure>.error     error codes; figures: utilization memory power temperature
 *                                              reasons old_reasons energy ecc remapped
 *   <gpu>.error                                error code of every figure
 *   <gpu>.gpm                                  1: it has GPM, whose metric number N is
 *   <gpu>.gpm.N (percent or MiB/s; unset: not available); <gpu>.gpm.error: that of taking a sample
 *   xid.serial, xid.gpu, xid                   another serial number makes an event of this GPU and XID
 *   events.error                               error code of registering for events
 *   hang_milliseconds                          each call takes so long
 * Each initialisation appends the process id to the file `initialised` beside the library.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, TIMEOUT = 10, XID = 8 };
#define UNSET (~0ULL)

typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2_t;

static FILE *beside(const char *name, const char *mode) {
    Dl_info self;
    char path[4096];
    if (!dladdr((void *)beside, &self)) return NULL;
    const char *slash = strrchr(self.dli_fname, '/');
    int folder = slash ? (int)(slash - self.dli_fname) : 1;
    snprintf(path, sizeof path, "%.*s/%s", folder, slash ? self.dli_fname : ".", name);
    return fopen(path, mode);
}

static unsigned long long knob(const char *name, unsigned long long otherwise) {
    char line[128];
    unsigned long long value;
    FILE *file = beside("knobs", "r");
    while (file && fscanf(file, "%127s %llu", line, &value) == 2)
        if (!strcmp(line, name)) otherwise = value;
    if (file) fclose(file);
    return otherwise;
}

static unsigned long long of_gpu(void *gpu, const char *name, unsigned long long otherwise) {
    char full[128];
    snprintf(full, sizeof full, "%ld.%s", (long)gpu - 1, name);
    return knob(full, otherwise);
}

static pthread_mutex_t driver = PTHREAD_MUTEX_INITIALIZER;

static void hang(void) {
    unsigned long long milliseconds = knob("hang_milliseconds", 0);
    struct timespec left = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000};
    pthread_mutex_lock(&driver);
    while (nanosleep(&left, &left)) {}
    pthread_mutex_unlock(&driver);
}

/* Clean-up at exit waits for the call in progress: a process that hangs can only leave without it. */
__attribute__((destructor)) static void clean_up(void) { pthread_mutex_lock(&driver); }

static int trouble(void *gpu, const char *error) {
    hang();
    int of_all = (int)of_gpu(gpu, "error", SUCCESS);
    return of_all ? of_all : (int)of_gpu(gpu, error, SUCCESS);
}

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    hang();
    int error = (int)knob("init.error", SUCCESS);
    FILE *file = beside("initialised", "a");
    if (file) {
        fprintf(file, "%d\n", (int)getpid());
        fclose(file);
    }
    return error;
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int error) {
    (void)error;
    return "an error of the fake driver";
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    hang();
    *count = (unsigned int)knob("gpus", 1);
    return (int)knob("count.error", SUCCESS);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **gpu) {
    *gpu = (void *)(long)(index + 1);
    return index < knob("gpus", 1) ? trouble(*gpu, "open.error") : INVALID_ARGUMENT;
}

int nvmlDeviceGetUtilizationRates(void *gpu, utilization_t *rates) {
    rates->gpu = (unsigned int)of_gpu(gpu, "utilization", 50);
    rates->memory = 0;
    return trouble(gpu, "utilization.error");
}

int nvmlDeviceGetMemoryInfo_v2(void *gpu, memory_v2_t *memory) {
    if (memory->version != (sizeof *memory | 2 << 24)) return INVALID_ARGUMENT;
    memory->total = of_gpu(gpu, "memory_total", 16ULL << 30);
    memory->used = of_gpu(gpu, "memory_used", 4ULL << 30);
    memory->reserved = of_gpu(gpu, "memory_reserved", 256ULL << 20);
    memory->free = memory->total - memory->used - memory->reserved;
    return trouble(gpu, "memory.error");
}

int nvmlDeviceGetPowerUsage(void *gpu, unsigned int *milliwatts) {
    *milliwatts = (unsigned int)of_gpu(gpu, "power", 75000);
    return trouble(gpu, "power.error");
}

int nvmlDeviceGetTemperature(void *gpu, unsigned int sensor, unsigned int *celsius) {
    (void)sensor;
    *celsius = (unsigned int)of_gpu(gpu, "temperature", 40);
    return trouble(gpu, "temperature.error");
}

int nvmlDeviceGetCurrentClocksEventReasons(void *gpu, unsigned long long *reasons) {
    *reasons = of_gpu(gpu, "reasons", 0);
    return trouble(gpu, "reasons.error");
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *gpu, unsigned long long *reasons) {
    *reasons = of_gpu(gpu, "reasons", 0);
    return trouble(gpu, "old_reasons.error");
}

int nvmlDeviceGetTotalEnergyConsumption(void *gpu, unsigned long long *millijoules) {
    *millijoules = of_gpu(gpu, "energy", 0);
    return trouble(gpu, "energy.error");
}

int nvmlDeviceGetTotalEccErrors(void *gpu, int type, int counter, unsigned long long *count) {
    if (type != 1 || counter != 0) return INVALID_ARGUMENT;
    *count = of_gpu(gpu, "ecc", 0);
    return trouble(gpu, "ecc.error");
}

int nvmlDeviceGetRemappedRows(void *gpu, unsigned int *corrected, unsigned int *uncorrected,
                              unsigned int *pending, unsigned int *failed) {
    *corrected = *pending = *failed = 0;
    *uncorrected = (unsigned int)of_gpu(gpu, "remapped", 0);
    return trouble(gpu, "remapped.error");
}

typedef struct { unsigned int version, is_supported; } gpm_support_t;
typedef struct { unsigned int id; int error; double value; const char *names[3]; } gpm_metric_t;
typedef struct { unsigned int version, count; void *sample1, *sample2; gpm_metric_t metrics[477]; } gpm_metrics_t;

int nvmlGpmQueryDeviceSupport(void *gpu, gpm_support_t *support) {
    support->is_supported = (unsigned int)of_gpu(gpu, "gpm", 0);
    return SUCCESS;
}

int nvmlGpmSampleAlloc(void **sample) {
    *sample = calloc(1, sizeof(void *));
    return SUCCESS;
}

int nvmlGpmSampleGet(void *gpu, void **sample) {
    *sample = gpu;
    return trouble(gpu, "gpm.error");
}

int nvmlGpmMetricsGet(gpm_metrics_t *asked) {
    if (asked->version != 1 || asked->sample1 == asked->sample2) return INVALID_ARGUMENT;
    void *gpu = *(void **)asked->sample2;
    if (gpu != *(void **)asked->sample1) return INVALID_ARGUMENT;
    for (unsigned int place = 0; place < asked->count; place++) {
        gpm_metric_t *metric = &asked->metrics[place];
        char name[32];
        snprintf(name, sizeof name, "gpm.%u", metric->id);
        unsigned long long value = of_gpu(gpu, name, UNSET);
        metric->error = value == UNSET ? NOT_SUPPORTED : SUCCESS;
        metric->value = (double)value;
    }
    return SUCCESS;
}

typedef struct { void *gpu; unsigned long long type, data; unsigned int gpu_instance, compute_instance; } event_t;

int nvmlEventSetCreate(void **set) {
    *set = calloc(1, 1);
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(void *gpu, unsigned long long types, void *set) {
    (void)gpu, (void)set;
    return types == XID ? (int)knob("events.error", SUCCESS) : INVALID_ARGUMENT;
}

int nvmlEventSetWait_v2(void *set, event_t *event, unsigned int milliseconds) {
    static unsigned long long seen = 0;
    struct timespec moment = {.tv_nsec = 10 * 1000000};
    (void)set;
    for (unsigned int waited = 0; waited < milliseconds; waited += 10) {
        unsigned long long serial = knob("xid.serial", 0);
        if (serial != seen) {
            seen = serial;
            *event = (event_t){(void *)(long)(knob("xid.gpu", 0) + 1), XID, knob("xid", 79), 0, 0};
            return SUCCESS;
        }
        nanosleep(&moment, NULL);
    }
    return TIMEOUT;
}
