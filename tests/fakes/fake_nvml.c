/* A driver library without a driver: libnvidia-ml.so.1 as nvidia-ml-py asks for it.
 *
 * Everything is told by the file `knobs` beside the library, as it is at each call: one
 * `name value` per line (integers). Names:
 *   gpus                                       how many there are (1)
 *   init.error, count.error                    NVML error codes, 0 is none
 *   <gpu>.utilization (percent), <gpu>.memory_used, <gpu>.memory_total, <gpu>.memory_reserved
 *   (bytes), <gpu>.power (milliwatts), <gpu>.temperature (degrees Celsius)
 *   <gpu>.reasons (NVML's mask of clock event reasons), <gpu>.energy (millijoules), <gpu>.ecc, <gpu>.remapped
 *   (rows), <gpu>.remap_failed (0 or 1), <gpu>.retired (pages)
 *   <gpu>.open.error, <gpu>.<figure>.error     error codes; figures: utilization memory power temperature
 *                                              reasons old_reasons energy ecc remapped retired
 *   <gpu>.error                                error code of every figure
 *   <gpu>.gpm                                  1: it has GPM, whose metric number N is
 *   <gpu>.gpm.N (percent or MiB/s; unset: not available); <gpu>.gpm.error: that of taking a sample
 *   <gpu>.mig                                  in MIG mode, with so many devices, in every other place; each has
 *   <gpu>.mig.<place>.memory_used, .memory_total, .memory_reserved, .gpm.N as above; such a GPU itself tells no
 *                                              utilisation and no GPM
 *   xid.serial, xid.gpu, xid                   another serial number makes an event of this GPU and XID
 *   events.error, <gpu>.events.error           error code of registering for events
 *   hang_milliseconds                          each call takes so long
 * Each initialisation appends the process id to the file `initialised` beside the library.
 * A symbol that a driver lacks is left out by `-Dsymbol=another`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10, XID = 8 };
#define UNSET (~0ULL)

typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned long long total, free, used; } memory_v1_t;

static void path_beside(const char *name, char *path, size_t size) {
    Dl_info self;
    const char *slash = dladdr((void *)path_beside, &self) ? strrchr(self.dli_fname, '/') : NULL;
    int folder = slash ? (int)(slash - self.dli_fname) : 1;
    snprintf(path, size, "%.*s/%s", folder, slash ? self.dli_fname : ".", name);
}

/* The file is read again when another one has taken its place. */
static unsigned long long knob(const char *name, unsigned long long otherwise) {
    static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;
    static char text[1 << 16], path[4096];
    static struct stat known;
    struct stat now;
    size_t length = strlen(name);
    pthread_mutex_lock(&reading);
    if (!*path) path_beside("knobs", path, sizeof path);
    if (stat(path, &now)) {
        *text = 0;
        known.st_ino = 0;
    } else if (now.st_ino != known.st_ino || now.st_mtim.tv_nsec != known.st_mtim.tv_nsec) {
        FILE *file = fopen(path, "r");
        text[file ? fread(text, 1, sizeof text - 1, file) : 0] = 0;
        if (file) fclose(file);
        known = now;
    }
    for (char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncmp(line, name, length) && line[length] == ' ') otherwise = strtoull(line + length, NULL, 10);
    pthread_mutex_unlock(&reading);
    return otherwise;
}

/* Handles: 1 and up are GPUs, and MIG devices 1000 times their place and more above their GPU's. */
static long gpu_of(void *handle) { return (long)handle % 1000 - 1; }
static long place_of(void *handle) { return (long)handle / 1000 - 1; }
static void *gpu_handle(long gpu) { return (void *)(gpu + 1); }

static unsigned long long of_gpu(void *handle, const char *name, unsigned long long otherwise) {
    char full[128];
    if (place_of(handle) < 0)
        snprintf(full, sizeof full, "%ld.%s", gpu_of(handle), name);
    else
        snprintf(full, sizeof full, "%ld.mig.%ld.%s", gpu_of(handle), place_of(handle), name);
    return knob(full, otherwise);
}

static int is_mig(void *gpu) { return of_gpu(gpu_handle(gpu_of(gpu)), "mig", 0) > 0; }
static int is_mig_device(void *handle) { return place_of(handle) >= 0; }

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

static int trouble(void *handle, const char *error) {
    void *gpu = gpu_handle(gpu_of(handle));
    hang();
    int of_all = (int)of_gpu(gpu, "error", SUCCESS);
    return of_all ? of_all : (int)of_gpu(gpu, error, SUCCESS);
}

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    hang();
    int error = (int)knob("init.error", SUCCESS);
    char path[4096];
    path_beside("initialised", path, sizeof path);
    FILE *file = fopen(path, "a");
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
    *gpu = gpu_handle(index);
    return index < knob("gpus", 1) ? trouble(*gpu, "open.error") : INVALID_ARGUMENT;
}

int nvmlDeviceGetUtilizationRates(void *gpu, utilization_t *rates) {
    rates->gpu = (unsigned int)of_gpu(gpu, "utilization", 50);
    rates->memory = 0;
    if (is_mig(gpu)) return NOT_SUPPORTED;
    return trouble(gpu, "utilization.error");
}

/* The older one counts the driver's reserve as used. */
int nvmlDeviceGetMemoryInfo(void *gpu, memory_v1_t *memory) {
    memory->total = of_gpu(gpu, "memory_total", 16ULL << 30);
    memory->used = of_gpu(gpu, "memory_used", 4ULL << 30) + of_gpu(gpu, "memory_reserved", 256ULL << 20);
    memory->free = memory->total - memory->used;
    return trouble(gpu, "memory.error");
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
    if (is_mig_device(gpu)) return INVALID_ARGUMENT;
    *milliwatts = (unsigned int)of_gpu(gpu, "power", 75000);
    return trouble(gpu, "power.error");
}

int nvmlDeviceGetTemperature(void *gpu, unsigned int sensor, unsigned int *celsius) {
    if (is_mig_device(gpu)) return INVALID_ARGUMENT;
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
    *corrected = *pending = 0;
    *failed = (unsigned int)of_gpu(gpu, "remap_failed", 0);
    *uncorrected = (unsigned int)of_gpu(gpu, "remapped", 0);
    return trouble(gpu, "remapped.error");
}

int nvmlDeviceGetRetiredPages(void *gpu, int cause, unsigned int *count, unsigned long long *addresses) {
    unsigned int retired = (unsigned int)of_gpu(gpu, "retired", 0), room = *count;
    if (cause != 1) return INVALID_ARGUMENT;
    *count = retired;
    if (room < retired) return INSUFFICIENT_SIZE;
    for (unsigned int page = 0; page < retired; page++) addresses[page] = page << 12;
    return trouble(gpu, "retired.error");
}

int nvmlDeviceGetMigMode(void *gpu, unsigned int *current, unsigned int *pending) {
    *current = *pending = is_mig(gpu);
    return trouble(gpu, "mig.error");
}

int nvmlDeviceGetMaxMigDeviceCount(void *gpu, unsigned int *count) {
    *count = is_mig(gpu) ? 7 : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *gpu, unsigned int place, void **device) {
    if (place % 2 || place / 2 >= of_gpu(gpu, "mig", 0)) return NOT_FOUND;
    *device = (void *)((long)gpu + 1000L * (place + 1));
    return SUCCESS;
}

/* As the driver numbers them: 1 and up. */
int nvmlDeviceGetGpuInstanceId(void *device, unsigned int *instance) {
    *instance = (unsigned int)place_of(device) + 1;
    return is_mig_device(device) ? SUCCESS : NOT_SUPPORTED;
}

typedef struct { unsigned int version, is_supported; } gpm_support_t;
typedef struct { unsigned int id; int error; double value; const char *names[3]; } gpm_metric_t;
typedef struct { unsigned int version, count; void *sample1, *sample2; gpm_metric_t metrics[477]; } gpm_metrics_t;

int nvmlGpmQueryDeviceSupport(void *gpu, gpm_support_t *support) {
    support->is_supported = (unsigned int)of_gpu(gpu, "gpm", 0);
    return SUCCESS;
}

typedef struct { void *handle; struct timespec taken; } gpm_sample_t;

int nvmlGpmSampleAlloc(gpm_sample_t **sample) {
    *sample = calloc(1, sizeof **sample);
    return SUCCESS;
}

static int take(void *handle, gpm_sample_t *sample) {
    sample->handle = handle;
    clock_gettime(CLOCK_MONOTONIC, &sample->taken);
    return trouble(handle, "gpm.error");
}

int nvmlGpmSampleGet(void *gpu, gpm_sample_t *sample) { return is_mig(gpu) ? NOT_SUPPORTED : take(gpu, sample); }

int nvmlGpmMigSampleGet(void *gpu, unsigned int instance, gpm_sample_t *sample) {
    return is_mig(gpu) ? take((void *)((long)gpu + 1000L * instance), sample) : NOT_SUPPORTED;
}

static long milliseconds_between(gpm_sample_t *before, gpm_sample_t *now) {
    return (now->taken.tv_sec - before->taken.tv_sec) * 1000 + (now->taken.tv_nsec - before->taken.tv_nsec) / 1000000;
}

int nvmlGpmMetricsGet(gpm_metrics_t *asked) {
    gpm_sample_t *before = asked->sample1, *now = asked->sample2;
    if (asked->version != 1 || before->handle != now->handle) return INVALID_ARGUMENT;
    if (milliseconds_between(before, now) < 100) return INVALID_ARGUMENT;
    for (unsigned int place = 0; place < asked->count; place++) {
        gpm_metric_t *metric = &asked->metrics[place];
        char name[32];
        snprintf(name, sizeof name, "gpm.%u", metric->id);
        unsigned long long value = of_gpu(now->handle, name, UNSET);
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
    (void)set;
    int of_all = (int)knob("events.error", SUCCESS);
    if (types != XID) return INVALID_ARGUMENT;
    return of_all ? of_all : (int)of_gpu(gpu, "events.error", SUCCESS);
}

int nvmlEventSetWait_v2(void *set, event_t *event, unsigned int milliseconds) {
    static unsigned long long seen = 0;
    struct timespec moment = {.tv_nsec = 10 * 1000000};
    (void)set;
    for (unsigned int waited = 0; waited < milliseconds; waited += 10) {
        unsigned long long serial = knob("xid.serial", 0);
        if (serial != seen) {
            seen = serial;
            *event = (event_t){gpu_handle((long)knob("xid.gpu", 0)), XID, knob("xid", 79), 0, 0};
            return SUCCESS;
        }
        nanosleep(&moment, NULL);
    }
    return TIMEOUT;
}
