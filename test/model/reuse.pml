/*
 * Dropping a series and reusing its cell, against writers that may be stopped anywhere and holders that send what cells
 * hold.
 *
 * A record compares its handle's epoch with the segment's, then loads and stores the writer's cell, without a lock. So
 * between the comparison and the store, the writer's series may be dropped and its cell given to another series. Three
 * things keep the store out of the other series. A drop moves the epoch. A writer says which epoch it has seen before
 * it binds again. The holder reuses a cell only once every live writer that had bound it has seen the drop. Before that
 * it reads the cell once more, because what was recorded after the drop goes to the series that has the key now.
 *
 * Spin tries every order of the steps, so a process that is stopped is one that is not chosen. A step that is atomic
 * here is one store in the code, or happens under a lock that all others of its kind take.
 *
 * Proved: no record is stored into a series of another key; and all that was recorded is either sent to the exporter
 * once, or is in the cells.
 *
 * BROKEN, each of which has to fail:
 *   1  the holder waits for no writer
 *   2  a finalizer records between the comparison and the store of another record
 *   3  a cell that holds zero counts as never bound
 *   4  a writer says after it has bound, and not before, that it has seen the epoch of that moment
 *   5  what was recorded after the drop is not handed over
 *   6  what the series holds is read before its state is DROPPED
 *   7  the holder does not look again whether the series that it has read is live
 */
#ifndef BROKEN
#define BROKEN 0
#endif

#define WRITERS 2
#define SHARED WRITERS /* the row of slot 0, to which residues go */
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
bool lock; /* of the stripe that both keys are in */
byte sent[IDS];

/* What really happened, for the proof. */
byte recorded[KEYS], delivered[KEYS];
byte busy;

#define take() atomic { !lock -> lock = true }
#define give() lock = false

/* Finds the live series of key k; NOBODY: there is none. Under the lock. */
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

/*
 * The same, but makes a series if there is none. NOBODY: no number is free, and the record is left out, as if folded.
 */
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

/* The store of a record that has read `had` from the cell. The series must have the key of the record. */
inline store(w, k, id, had, n) {
  atomic {
    assert(state[id] != FREE && key[id] == k);
    CELL(w, id) = had + n;
    recorded[k] = recorded[k] + n;
    id = NOBODY;
    had = 0
  }
}

/* Binds the handle (h_id, h_epoch) of writer w and key k. */
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

/* A record of n through a handle, without a finalizer in between. */
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
 * Records 1 or 0 into key 0. One of the writers does so twice, and a finalizer in its VM may record into key 1 before
 * the comparison.
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
    /* A record reads the handle, then compares the epoch. */
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

/* Adds up what all rows hold of a series, one row at a time. */
inline total(id, sum, row) {
  sum = 0;
  row = 0;
  do
  :: row < ROWS -> atomic { sum = sum + CELL(row, id); row++ }
  :: else -> break
  od
}

/* Drops the series of key 0 at any time, at most twice. */
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

/* Sends the difference between a total and what was sent of the series before. */
inline send(id, sum) {
  d_step {
    if
    :: sum > sent[id] -> delivered[key[id]] = delivered[key[id]] + sum - sent[id]; sent[id] = sum
    :: else
    fi;
    sum = 0
  }
}

/* Flushes one series; a dropped one with the total that it was dropped with. */
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

/* Looks at one writer after the other. At the end `row` is ROWS if one of them has not seen the drop. */
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

/* Hands over what was recorded after the drop, then frees the number and its cells. */
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

/* The holder: flushes and reclaims in any order. In the end it reclaims all dropped series and flushes once more. */
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
  :: last && state[0] != DROPPED && state[1] == DROPPED ->
    id = 1; flush(id, sum, row); reclaim(id, sum, row, to); row = 0
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
