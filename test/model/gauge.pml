/*
 * A `last` gauge that is dropped as idle, against writers that set it and may be stopped anywhere.
 *
 * A set is two stores: the value, then the mark TOUCHED. The sweeper takes marks. If it finds no mark at a gauge, it
 * drops the gauge, a little later and under the stripe's lock. In between, and also after the drop, a writer that
 * compared the epoch before may still set the gauge, and any such set leaves a mark. If the sweeper then finds a mark
 * at a dropped gauge, it undoes the drop, unless the gauge has a successor, a series that has the key now. The
 * successor gets the late value once every writer has seen the drop, if no set of the successor has begun: that is
 * decided by a compare-and-swap with FRESH, the value that a gauge has before its first set.
 *
 * Sets are numbered, and each stores its number as the value. A set is outdated once another set is done that began
 * after it had ended. Of two sets that overlap either may be the last.
 *
 * Proved: no set is stored into a series that is neither dropped nor alive; the value that is shown in the end is that
 * of no outdated set; and nothing is shown only if every set that is not outdated had ended before the sweeper found no
 * mark.
 *
 * BROKEN, each of which has to fail:
 *   1  the successor does not get the late value
 *   2  the mark is stored before the value
 *   3  the holder does not wait for writers before it reuses a number
 *   4  the successor gets the late value whatever it holds
 *   5  a successor without a mark counts as one whose first set has not begun
 *   6  the successor gets the late value at once, and later sets of the dropped gauge are ignored
 *   7  no drop is undone, and no late value is handed over
 */
#ifndef BROKEN
#define BROKEN 0
#endif

#define WRITERS 2
#define SETS 2 /* of each writer */
#define IDS 3
#define ROUNDS 3
#define NOBODY 255

#define FREE 0
#define LIVE 1
#define DROPPED 2

#define FRESH 255
#define UNSET 0
#define TOUCHED 1
#define SET 2

#define BOUND(w, id) bound[(w) * IDS + (id)]

/* The segment. */
byte epoch = 1;
byte state[IDS], value[IDS], mark[IDS], drop_epoch[IDS];
bool bound[WRITERS * IDS];
byte seen[WRITERS];
bool alive[WRITERS];
bool lock; /* of the stripe */

/* What really happened, for the proof: a bit for each set. */
byte done, outdated, idle;
byte busy;

#define bit(v) (1 << (v))
#define take() atomic { !lock -> lock = true }
#define give() lock = false

/* Finds the live series, or makes one. NOBODY: no number is free. Under the lock. */
inline find_or_make(id) {
  d_step {
    id = 0;
    do
    :: id < IDS && state[id] != LIVE -> id++
    :: else -> break
    od;
    if
    :: id == IDS ->
      id = 0;
      do
      :: id < IDS && state[id] != FREE -> id++
      :: else -> break
      od;
      if
      :: id == IDS -> id = NOBODY
      :: else -> state[id] = LIVE; value[id] = FRESH; mark[id] = UNSET
      fi
    :: else
    fi
  }
}

proctype writer(byte w) {
  byte id = NOBODY, at, n, v, before;
  do
  :: n == SETS -> break
  :: else ->
    atomic { v = w * SETS + n; before = done; n++ };
    if
    :: epoch == at && id != NOBODY
    :: else ->
      at = epoch;
      seen[w] = at;
      take();
      find_or_make(id);
      if
      :: id != NOBODY -> BOUND(w, id) = true
      :: else
      fi;
      give()
    fi;
    if
    :: id == NOBODY /* no number is free: the set goes to the overflow series */
    :: else ->
      assert(state[id] != FREE);
#if BROKEN == 2
      mark[id] = TOUCHED;
      value[id] = v;
      atomic { done = done | bit(v); outdated = outdated | before }
#else
      value[id] = v;
      atomic { mark[id] = TOUCHED; done = done | bit(v); outdated = outdated | before }
#endif
    fi
  od;
  atomic { alive[w] = false; busy-- }
}

/* A writer that binds to the series and never sets it. */
proctype looker() {
  byte id;
  take();
  find_or_make(id);
  give();
  busy--
}

/* Takes the mark of the live series, or drops the series if there is none. */
inline look_and_drop(id, ended) {
  id = 0;
  do
  :: id < IDS && !(state[id] == LIVE && mark[id] != UNSET) -> id++
  :: else -> break
  od;
  if
  :: id == IDS
  :: else ->
    atomic {
      if
      :: mark[id] == TOUCHED -> mark[id] = SET; id = IDS
      :: else -> ended = done
      fi
    };
    if
    :: id == IDS
    :: else ->
      take();
      epoch++;
      if
      :: mark[id] == TOUCHED
      :: else ->
        state[id] = DROPPED;
        atomic { drop_epoch[id] = epoch; idle = idle | ended }
      fi;
      give()
    fi
  fi;
  id = 0;
  ended = 0
}

#define CAS(word, from, to) if :: word == from -> word = to :: else fi

/* Undoes the drop of a gauge that was set late and has no successor. */
inline revive(id, to) {
  if
  :: mark[id] == TOUCHED && BROKEN != 7 ->
    take();
    d_step {
      to = 0;
      do
      :: to < IDS && state[to] != LIVE -> to++
      :: else -> break
      od;
      if
      :: to == IDS -> state[id] = LIVE
      :: else
      fi;
      to = 0
    }
    give()
  :: else
  fi
}

/* Hands a late value over to the successor. */
inline hand_over(id, to, v) {
  if
  :: mark[id] == TOUCHED && BROKEN != 1 && BROKEN != 7 ->
    take();
    find_or_make(to);
    if
    :: to == NOBODY
    :: else ->
      v = value[id];
#if BROKEN == 4
      value[to] = v; mark[to] = TOUCHED;
#elif BROKEN == 5
      if
      :: mark[to] == UNSET -> value[to] = v; mark[to] = TOUCHED
      :: else
      fi;
#else
      atomic { if :: value[to] == FRESH -> value[to] = v :: else -> v = FRESH fi };
      if
      :: v == FRESH
      :: else -> atomic { CAS(mark[to], UNSET, TOUCHED) }
      fi;
#endif
      atomic { CAS(mark[id], TOUCHED, SET) }
    fi;
    give();
    to = 0;
    v = 0
  :: else
  fi
}

#define UNSEEN(w, id) (BOUND(w, id) && alive[w] && seen[w] < drop_epoch[id])

/* Asks first whether all writers have seen the drop. If they have, every late value is stored by then. */
inline reclaim(id, w, to, v) {
  w = 0;
  do
  :: w == WRITERS -> break
#if BROKEN == 3
  :: w < WRITERS -> w++
#else
  :: w < WRITERS && UNSEEN(w, id) -> w = NOBODY; break
  :: w < WRITERS && !UNSEEN(w, id) -> w++
#endif
  od;
#if BROKEN == 6
  hand_over(id, to, v);
#else
  revive(id, to);
#endif
  if
  :: w == NOBODY || state[id] == LIVE
  :: else ->
    hand_over(id, to, v);
    d_step {
      w = 0;
      do
      :: w < WRITERS -> BOUND(w, id) = false; w++
      :: else -> break
      od;
      value[id] = 0; mark[id] = 0; drop_epoch[id] = 0; state[id] = FREE
    }
  fi;
  w = 0
}

inline reclaim_all(id, w, to, v) {
  id = 0;
  do
  :: id == IDS -> break
  :: id < IDS && state[id] == DROPPED -> reclaim(id, w, to, v); id++
  :: id < IDS && state[id] != DROPPED -> id++
  od;
  id = 0
}

/* Checks what is shown in the end. */
inline check(id) {
  d_step {
    id = 0;
    do
    :: id < IDS && !(state[id] == LIVE && mark[id] != UNSET) -> id++
    :: else -> break
    od;
    if
    :: id == IDS -> assert((done & ~(outdated | idle)) == 0)
    :: else -> assert((bit(value[id]) & outdated) == 0)
    fi
  }
}

proctype sweeper() {
  byte id, w, to, v, ended, round;
  do
  :: round < ROUNDS -> round++; look_and_drop(id, ended); reclaim_all(id, w, to, v)
  :: round == ROUNDS -> break
  od;
  busy == 0;
  reclaim_all(id, w, to, v);
  check(id)
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
    run looker();
    run sweeper()
  }
}
