/*
 * Agreements between VMs. A server may run several VMs in one process, each with a configuration of chalk, on one
 * segment that only one of them flushes. A member of an agreement reads the text that an earlier member has put there.
 * An agreement is identified by its client and cycle. It ends with its last member, so what a refused configuration has
 * put does not outlive its VMs.
 */
#include <stdlib.h>
#include <string.h>

#include "shm/process.h"

struct chalk_agreement {
  char *client, *text;
  uint64_t cycle;
  uint32_t members;
  chalk_agreement *next;
};

static chalk_agreement *agreements; /* the list and its items are read and written under the process lock */

static chalk_agreement *find(const char *client, uint64_t cycle) {
  chalk_agreement *a = agreements;
  while (a && (a->cycle != cycle || strcmp(a->client, client) != 0)) a = a->next;
  return a;
}

static chalk_agreement *make(const char *client, uint64_t cycle) {
  chalk_agreement *a = calloc(1, sizeof *a);
  if (a && !(a->client = strdup(client))) {
    free(a);
    return NULL;
  }
  if (a) a->cycle = cycle, a->next = agreements, agreements = a;
  return a;
}

chalk_agreement *chalk_agreement_join(const char *client, uint64_t cycle) {
  process_lock();
  chalk_agreement *a = find(client, cycle);
  if (!a) a = make(client, cycle);
  if (a) a->members++;
  process_unlock();
  return a;
}

void chalk_agreement_leave(chalk_agreement *a) {
  process_lock();
  if (--a->members == 0) {
    chalk_agreement **p = &agreements;
    while (*p != a) p = &(*p)->next;
    *p = a->next;
    free(a->client);
    free(a->text);
    free(a);
  }
  process_unlock();
}

const char *chalk_agreement_text(const chalk_agreement *a) {
  process_lock();
  const char *text = a->text;
  process_unlock();
  return text;
}

int chalk_agreement_put(chalk_agreement *a, const char *text) {
  char *copy = strdup(text);
  if (!copy) return CHALK_EMEMORY;
  process_lock();
  free(a->text);
  a->text = copy;
  process_unlock();
  return CHALK_OK;
}
