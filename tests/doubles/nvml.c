/* A double of NVIDIA's libnvidia-ml.so.1: it describes the machine in NVML_DOUBLE, such as
 *
 *     GPU-a,NVIDIA H200,3;GPU-b,NVIDIA H200,0,MIG-1,-,MIG-2
 *
 * Each GPU has its UUID, its name and its compute mode. If MIG divides it, the UUIDs of its
 * instances follow: `-` is a place without an instance, and a single `,` at the end means no
 * instances at all. If the variable is not set, the library does not start. The driver is 535.54.03.
 */

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, NOT_LOADED = 9 };
enum { MOST_GPUS = 16, MOST_FIELDS = 16, INSTANCES = 3 };

static char text[4096];
static char *gpus[MOST_GPUS][MOST_FIELDS];
static unsigned fields[MOST_GPUS];
static unsigned count;

int nvmlInit_v2(void) {
    const char *machine = getenv("NVML_DOUBLE");
    if (machine == NULL) return NOT_LOADED;
    snprintf(text, sizeof text, "%s", machine);
    count = 0;
    for (char *left = text, *gpu; (gpu = strsep(&left, ";")) != NULL && *gpu; count++) {
        fields[count] = 0;
        for (char *field; (field = strsep(&gpu, ",")) != NULL;)
            gpus[count][fields[count]++] = field;
    }
    return OK;
}

int nvmlInit(void) { return nvmlInit_v2(); }
int nvmlShutdown(void) { return OK; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    snprintf(version, length, "535.54.03");
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *found) {
    *found = count;
    return OK;
}

/* A handle points to the UUID. */
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = &gpus[index][0];
    return OK;
}

static unsigned number_of(void *handle) {
    return (unsigned)(((char **)handle - &gpus[0][0]) / MOST_FIELDS);
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    snprintf(uuid, length, "%s", *(char **)handle);
    return OK;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    snprintf(name, length, "%s", gpus[number_of(handle)][1]);
    return OK;
}

int nvmlDeviceGetComputeMode(void *handle, int *mode) {
    *mode = atoi(gpus[number_of(handle)][2]);
    return OK;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *now, unsigned *pending) {
    *now = *pending = fields[number_of(handle)] > INSTANCES;
    return *now ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *most) {
    *most = fields[number_of(handle)] - INSTANCES;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **instance) {
    char **found = &gpus[number_of(handle)][INSTANCES + index];
    if (strcmp(*found, "-") == 0 || **found == 0) return NOT_FOUND;
    *instance = found;
    return OK;
}
