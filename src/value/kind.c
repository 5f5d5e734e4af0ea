#include "value/kind.h"

const kind kind_table[] = {
    {.name = "", .holds = KIND_NOTHING},
    [CHALK_COUNT] = {.name = "count", .holds = KIND_TOTAL, .stream_type = 0},
    [CHALK_GAUGE] = {.name = "gauge", .holds = KIND_VALUE, .stream_type = 1},
    [CHALK_HISTOGRAM] = {.name = "histogram", .holds = KIND_HISTOGRAM, .stream_type = 2},
};
