/*
 * Cell drop and reuse against writers that may be stopped anywhere, and holders that send what cells stand at.
 *
 * A record compares its handle's epoch with the segment's, then loads and stores the writer's cell, without a lock. So
 * a writer may stand between the comparison and the store while its series is dropped and its cell given to another
 * one. What has to keep it from there: a drop moves the epoch; a writer says which epoch it has seen, at the start of
 * binding anew; the holder reuses a cell once every living writer that had bound it has seen the drop, and first reads
 * it once more, for what came after the drop goes to the series that has the key now.
 *
 * Every scheduling of the processes is tried, so a stop is only a process that is not chosen. Steps that are one here
 * are one store there, or under a lock that all others of their kind take.
 *
 * Proved: no record is stored into a series of another key; and all that was recorded is either sent to the exporter,
 * once, or stands in the cells.
 *
 * BROKEN, each of which has to fail:
 *   1  the holder waits for nobody
 *   2  a finalizer records between another record's comparison and its store
 *   3  a cell that holds zero counts as never bound
 *   4  a writer says that it has seen the epoch that is once it has bound, not the one before
 *   5  what came after the drop is not passed on
 *   6  what a series stood at is read before the series is seen to be dropped
 *   7  the holder does not look again whether what it read was alive
 */
#ifndef BROKEN
#define BROKEN 0
#endif

#define WRITERS 2
#define SHARED WRITERS /* the row of cells that residues go to */
#define ROWS 3
#define IDS 2
#define KEYS 2
#define NOBODY 255

#define FREE 0
#define LIVE 1
#define DROPPED 2

#define CELL(w, id) cell[(w) * IDS + (id)]
#define BOUND(w, id) bound[(w) * IDS + (id)]

/* The segment. */
byte epoch = 1;
byte state[IDS], key[IDS], at_drop[IDS], drop_epoch[IDS];
bool settled[IDS];
byte cell[ROWS * IDS];
bool bound[ROWS * IDS];
byte seen[WRITERS];
bool alive[WRITERS];
bool lock; /* of the stripe; both keys are in one */
byte sent[IDS];

/* The truth. */
byte recorded[KEYS], delivered[KEYS];
byte busy;

#define take() atomic { !lock -> lock = true }
#define give() lock = false

/* The live series of key k; NOBODY. Under the lock. */
inline find(k, id) {
  d_step {
    id = 0;
    do
    :: id < IDS && !(state[id] == LIVE && key[id] == k) -> id++
    :: else -> break
    od;
    if
    :: id == IDS -> id = NOBODY
    :: else
    fi
  }
}

/* The same, made if there is none; where no number is free the writer drops the record, as if into an overflow. */
inline find_or_make(k, id) {
  find(k, id);
  d_step {
    if
    :: id == NOBODY ->
      id = 0;
      do
      :: id < IDS && state[id] != FREE -> id++
      :: else -> break
      od;
      if
      :: id == IDS -> id = NOBODY
      :: else -> state[id] = LIVE; key[id] = k; settled[id] = false; sent[id] = 0
      fi
    :: else
    fi
  }
}

/* The store of a record that found `had` in the cell, and what must be true of it. */
inline store(w, k, id, had, n) {
  atomic {
    assert(state[id] != FREE && key[id] == k);
    CELL(w, id) = had + n;
    recorded[k] = recorded[k] + n;
    id = NOBODY;
    had = 0
  }
}

/* Binds the handle (h_id, h_epoch) of key k. */
inline bind(w, k, h_id, h_epoch) {
  h_epoch = epoch;
#if BROKEN != 4
  seen[w] = h_epoch;
#endif
  take();
  find_or_make(k, h_id);
  atomic {
    if
    :: h_id != NOBODY -> BOUND(w, h_id) = true
    :: else -> h_epoch = 0
    fi
  }
  give();
#if BROKEN == 4
  seen[w] = epoch;
#endif
}

/* One record of n through a handle, without anything in between. */
inline record(w, k, h_id, h_epoch, n, id, had) {
  if
  :: epoch == h_epoch
  :: else -> bind(w, k, h_id, h_epoch)
  fi;
  id = h_id;
  if
  :: id == NOBODY
  :: else -> had = CELL(w, id); store(w, k, id, had, n)
  fi
}

/*
 * Records 1, or 0, to key 0. One of the writers does so twice, and a finalizer of its VM may record to key 1 before the
 * comparison.
 */
proctype writer(byte w) {
  byte h_id = NOBODY, h_epoch, f_id = NOBODY, f_epoch, id = NOBODY, had, was, times, n;
  bool nested = w != 0;
  do
  :: times == 2 - w -> break
  :: else ->
    times++;
    if
    :: n = 1
    :: w == 0 && times == 1 -> n = 0
    fi;
    /* The handle is read, then the epoch compared. */
    was = h_epoch;
    if
    :: !nested && BROKEN != 2 -> nested = true; record(w, 1, f_id, f_epoch, 1, id, had)
    :: true
    fi;
    if
    :: epoch == was && h_id != NOBODY
    :: else -> bind(w, 0, h_id, h_epoch)
    fi;
#if BROKEN == 2
    if
    :: !nested -> nested = true; record(w, 1, f_id, f_epoch, 1, id, had)
    :: true
    fi;
#endif
    id = h_id;
    if
    :: id == NOBODY
    :: else -> had = CELL(w, id); store(w, 0, id, had, n)
    fi
  od;
  atomic { alive[w] = false; busy-- }
}

/* What all rows hold of a series, a row a step. */
inline total(id, sum, row) {
  sum = 0;
  row = 0;
  do
  :: row < ROWS -> atomic { sum = sum + CELL(row, id); row++ }
  :: else -> break
  od
}

/* Drops key 0 whenever it likes, at most twice. */
proctype dropper() {
  byte id, sum, row, times;
  do
  :: times == 2 -> break
  :: times < 2 ->
    times++;
    take();
    find(0, id);
    if
    :: id == NOBODY
    :: else ->
      epoch++;
#if BROKEN == 6
      total(id, sum, row);
      at_drop[id] = sum;
      state[id] = DROPPED;
#else
      state[id] = DROPPED;
      total(id, sum, row);
      at_drop[id] = sum;
#endif
      atomic { drop_epoch[id] = epoch; settled[id] = true }
    fi;
    give();
    sum = 0; row = 0; id = 0
  od;
  busy--
}

/* The difference of what the series stands at to what was sent of it. */
inline send(id, sum) {
  d_step {
    if
    :: sum > sent[id] -> delivered[key[id]] = delivered[key[id]] + sum - sent[id]; sent[id] = sum
    :: else
    fi;
    sum = 0
  }
}

/* Sends one series; of a dropped one what it was dropped with. */
inline flush(id, sum, row) {
  if
  :: state[id] == LIVE ->
    total(id, sum, row);
#if BROKEN == 7
    send(id, sum);
#else
    if
    :: state[id] == LIVE -> send(id, sum)
    :: else -> sum = 0
    fi;
#endif
    row = 0
  :: state[id] == DROPPED && settled[id] -> sum = at_drop[id]; send(id, sum)
  :: else
  fi
}

#define UNSEEN(w, id) (BOUND(w, id) && alive[w] && seen[w] < drop_epoch[id])
#define UNSEEN_BY_VALUE(w, id) (CELL(w, id) != 0 && alive[w] && seen[w] < drop_epoch[id])

/* Looks at one writer after the other; `row` is ROWS when one has not seen the drop. */
inline wait_for_writers(id, row) {
  row = 0;
  do
  :: row == WRITERS -> break
#if BROKEN == 1
  :: row < WRITERS -> row++
#elif BROKEN == 3
  :: row < WRITERS && UNSEEN_BY_VALUE(row, id) -> row = ROWS; break
  :: row < WRITERS && !UNSEEN_BY_VALUE(row, id) -> row++
#else
  :: row < WRITERS && UNSEEN(row, id) -> row = ROWS; break
  :: row < WRITERS && !UNSEEN(row, id) -> row++
#endif
  od
}

/* Passes on what came after the drop, then frees the number and its cells. */
inline reclaim(id, sum, row, to) {
  total(id, sum, row);
  if
  :: sum > at_drop[id] && BROKEN != 5 ->
    take();
    find_or_make(key[id], to);
    d_step {
      if
      :: to == NOBODY -> delivered[key[id]] = delivered[key[id]] + sum - at_drop[id] /* through the overflow series */
      :: else -> CELL(SHARED, to) = CELL(SHARED, to) + sum - at_drop[id]; BOUND(SHARED, to) = true
      fi
    }
    give()
  :: else
  fi;
  d_step {
    row = 0;
    do
    :: row < ROWS -> CELL(row, id) = 0; BOUND(row, id) = false; row++
    :: else -> break
    od
  }
  atomic { at_drop[id] = 0; drop_epoch[id] = 0; settled[id] = false; state[id] = FREE; row = 0; sum = 0; to = 0 }
}

/* The holder: sends and reclaims in any order, and at the end until nothing is left to do. */
proctype holder() {
  byte id, sum, row, to;
  bool last;
  do
  :: !last ->
    if
    :: id = 0
    :: id = 1
    fi;
    if
    :: flush(id, sum, row)
    :: state[id] == DROPPED && settled[id] && sent[id] >= at_drop[id] ->
      wait_for_writers(id, row);
      if
      :: row == ROWS
      :: else -> reclaim(id, sum, row, to)
      fi;
      row = 0
    fi;
    id = 0
  :: busy == 0 && !last -> last = true
  :: last && state[0] == DROPPED -> id = 0; flush(id, sum, row); reclaim(id, sum, row, to); row = 0
  :: last && state[0] != DROPPED && state[1] == DROPPED -> id = 1; flush(id, sum, row); reclaim(id, sum, row, to); row = 0
  :: last && state[0] != DROPPED && state[1] != DROPPED -> break
  od;
  id = 0; flush(id, sum, row);
  id = 1; flush(id, sum, row);
  assert(delivered[0] == recorded[0] && delivered[1] == recorded[1])
}

init {
  byte w;
  atomic {
    busy = WRITERS + 1;
    for (w : 0 .. WRITERS - 1) {
      seen[w] = epoch;
      alive[w] = true;
      run writer(w)
    }
    run dropper();
    run holder()
  }
}
