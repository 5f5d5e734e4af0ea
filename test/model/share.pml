/*
 * Gauges of processes that share slot 0, read while these come, get a row, end and die.
 *
 * There is one slot with a row of cells, and there are two guest slots, which is enough for three processes, because
 * one of them has the row at first. A process that finds the row taken gets a guest slot, and a link in the gauge's
 * list. The link says whose it is: which guest slot's, and in which turn of it. Once the row is free, because it was
 * given back or freed in a dead owner's name, the process takes the row, too, and keeps its link, so the gauge's value
 * never moves. A link is vacant when the turn of its guest slot is over, and then the next process takes it. A reader
 * reads the links of the list, then the row. It asks about each slot once whether the owner is alive, and again only if
 * the slot has had another owner since.
 *
 * A step that is atomic here is one store in the code, or happens under a lock that all others of its kind take. A lock
 * whose owner is dead can be taken. A process dies in one step here; takeover.pml has the two steps.
 *
 * Proved: a pass of the reader finds the value of a process that had set it before, and lives on, exactly once. It
 * finds no value twice, and none of a process that had ended before. Each value that it finds was set by a process. And
 * no process stores into a row that another live process has.
 *
 * Dead processes block for ever in the middle of what they did, so use `pan -E`, which does not report that.
 *
 * BROKEN, each of which has to fail:
 *   1  a process that gets a row sets the gauge in the row from then on
 *   2  a link names its guest slot and not the turn
 *   3  a process that takes a vacant link stores its name there before it resets the value
 *   4  a process that finds the owner of the row dead frees the row without asking again under the lock
 *   5  a reader does not look again whose the link is
 *   6  a reader does not look again whether the turn of the row has moved
 */
#ifndef BROKEN
#define BROKEN 0
#endif

#define LIVES 3
#define GUESTS 2
#define LINKS 2
#define NOBODY 255

/* The processes. */
bool alive[LIVES], ended[LIVES]; /* ended: without being killed */

/* The segment. Owners are processes; the value of process p is p + 1. */
byte registry = NOBODY, stripe = NOBODY;
bool row_taken, row_set;
byte row_owner = NOBODY, row_turn, row_value;
bool guest_taken[GUESTS];
byte guest_owner[GUESTS], guest_turn[GUESTS];
bool link_set[LINKS];
byte link_guest[LINKS], link_turn[LINKS], link_value[LINKS], links;

/* What really happened, for the proof. */
bool done; /* the reader has ended, so nothing after that matters */
bool has_set[LIVES], has_row[LIVES];

#define take(lock, p) atomic { (lock == NOBODY || !alive[lock]) -> lock = p }
#define give(lock) lock = NOBODY
#define IS_OWNED_BY_DEAD(taken, owner) (taken && owner != NOBODY && !alive[owner])
#define OTHERS_ROW(p) ((p != 0 && has_row[0] && alive[0]) || (p != 1 && has_row[1] && alive[1]) || \
                       (p != 2 && has_row[2] && alive[2]))

/* Takes the row, under the registry lock. The value of its last owner is reset first. */
inline own_row(p) {
  row_taken = false;
  row_set = false;
  row_value = 0;
  d_step { row_owner = p; row_turn++ }
  atomic { row_taken = true; assert(!OTHERS_ROW(p)); has_row[p] = true }
}

inline own_guest(p, k) {
  d_step {
    k = 0;
    do
    :: k < GUESTS && guest_taken[k] && alive[guest_owner[k]] -> k++
    :: else -> break
    od
  }
  assert(k < GUESTS);
  guest_taken[k] = false; /* otherwise the links of the last owner would count again until the turn moves */
  d_step { guest_owner[k] = p; guest_turn[k]++ }
  guest_taken[k] = true
}

#define IS_MINE(l, k) (link_guest[l] == k && link_turn[l] == guest_turn[k])
#if BROKEN == 2
#define IS_OVER(l) (!guest_taken[link_guest[l]])
#else
#define IS_OVER(l) (!guest_taken[link_guest[l]] || link_turn[l] != guest_turn[link_guest[l]])
#endif

/* Finds the link of guest slot k, under the stripe's lock: its own one, a vacant one, or a new one. */
inline find_link(k, l) {
  d_step {
    l = 0;
    do
    :: l < links && !IS_MINE(l, k) -> l++
    :: else -> break
    od;
    if
    :: l < links
    :: else ->
      l = 0;
      do
      :: l < links && !IS_OVER(l) -> l++
      :: else -> break
      od
    fi
  }
  if
  :: l < links && IS_MINE(l, k)
  :: l < links && !IS_MINE(l, k) ->
#if BROKEN == 3
    d_step { link_guest[l] = k; link_turn[l] = guest_turn[k] }
    link_set[l] = false;
    link_value[l] = 0
#else
    link_set[l] = false;
    link_value[l] = 0;
    d_step { link_guest[l] = k; link_turn[l] = guest_turn[k] }
#endif
  :: else ->
    assert(links < LINKS);
    d_step { link_guest[l] = k; link_turn[l] = guest_turn[k]; link_set[l] = false; link_value[l] = 0; links++ }
  fi
}

/* Looks for the row: frees it if its owner is dead, and takes it if it is free. */
inline look(p) {
#if BROKEN == 4
  if
  :: IS_OWNED_BY_DEAD(row_taken, row_owner) -> take(registry, p); atomic { row_taken = false }; give(registry)
  :: else
  fi;
#else
  if
  :: IS_OWNED_BY_DEAD(row_taken, row_owner) ->
    take(registry, p);
    if
    :: IS_OWNED_BY_DEAD(row_taken, row_owner) -> row_taken = false
    :: else
    fi;
    give(registry)
  :: else
  fi;
#endif
  if
  :: !row_taken ->
    take(registry, p);
    if
    :: !row_taken -> own_row(p)
    :: else
    fi;
    give(registry)
  :: else
  fi
}

inline set_row(p) {
  row_value = p + 1;
  atomic { assert(!OTHERS_ROW(p)); row_set = true; has_set[p] = true }
}

inline set_link(p, l) {
  link_value[l] = p + 1;
  atomic { link_set[l] = true; has_set[p] = true }
}

/* The process that has the row at first. */
proctype first() provided (alive[0] && !done) {
  if
  :: true ->
    take(registry, 0);
    atomic { has_row[0] = false; ended[0] = true; row_taken = false };
    give(registry)
  :: true
  fi
}

proctype process(byte p) provided (alive[p] && !done) {
  byte k = NOBODY, l;
  take(registry, p);
  if
  :: !row_taken || IS_OWNED_BY_DEAD(row_taken, row_owner) -> own_row(p)
  :: else -> own_guest(p, k)
  fi;
  give(registry);
  if
  :: k == NOBODY -> set_row(p)
  :: else ->
    take(stripe, p);
    find_link(k, l);
    set_link(p, l);
    give(stripe);
    look(p);
    /* Sets the gauge once more, now without the lock, if it has the row. */
    if
    :: has_row[p] ->
#if BROKEN == 1
      set_row(p)
#else
      set_link(p, l)
#endif
    :: else
    fi
  fi;
  /* Ends and gives its slots back, or never ends. */
  if
  :: true ->
    take(registry, p);
    /* A process with a link has no value in the row, so giving both slots back can be one step here. */
    d_step {
      if
      :: has_row[p] -> has_row[p] = false; row_taken = false
      :: else
      fi;
      if
      :: k != NOBODY -> guest_taken[k] = false
      :: else
      fi;
      ended[p] = true;
      k = 0;
      l = 0
    }
    give(registry)
  :: true
  fi;
  d_step { k = 0; l = 0 }
}

/* What the reader knows about the owners of slots, for one turn of each. */
#define UNKNOWN 0
#define LIVING 1
#define OVER 2
byte known[GUESTS], known_turn[GUESTS], row_known;
byte seen[LIVES];
bool before[LIVES], gone[LIVES];

inline ask(k) {
  d_step {
    if
    :: known[k] == UNKNOWN || known_turn[k] != guest_turn[k] ->
      known_turn[k] = guest_turn[k];
      known[k] = (guest_taken[k] && alive[guest_owner[k]] -> LIVING : OVER)
    :: else
    fi
  }
}

inline note(v) {
  atomic { assert(v > 0); seen[v - 1]++; assert(seen[v - 1] == 1); v = 0 }
}

inline read_link(l) {
  d_step { k = link_guest[l]; t = link_turn[l] }
  ask(k);
  if
#if BROKEN == 2
  :: known[k] == LIVING && link_set[l] ->
#else
  :: t == guest_turn[k] && known[k] == LIVING && link_set[l] ->
#endif
    v = link_value[l];
    if
#if BROKEN == 5
    :: link_set[l] -> note(v)
#else
    :: link_set[l] ->
      if
      :: link_guest[l] == k && link_turn[l] == t -> note(v)
      :: else -> v = 0
      fi
#endif
    :: else -> v = 0
    fi
  :: else
  fi
}

inline read_row() {
  t = row_turn;
  row_known = (row_taken && row_owner != NOBODY && alive[row_owner] -> LIVING : OVER);
  if
  :: row_known == LIVING && row_set ->
    v = row_value;
    if
#if BROKEN == 6
    :: row_set -> note(v)
#else
    :: row_set && row_turn == t -> note(v)
#endif
    :: else -> v = 0
    fi
  :: else
  fi
}

proctype reader() {
  byte l, k, t, v, n, p;
  atomic {
    for (p : 0 .. LIVES - 1) {
      before[p] = has_set[p] && alive[p] && !ended[p];
      gone[p] = !alive[p] || ended[p]
    }
    n = links
  };
  l = 0;
  do
  :: l < n -> read_link(l); d_step { l++; k = 0; t = 0 }
  :: else -> break
  od;
  read_row();
  atomic {
    for (p : 0 .. LIVES - 1) {
      assert(!before[p] || !alive[p] || ended[p] || seen[p] == 1);
      assert(!gone[p] || seen[p] == 0)
    }
    done = true
  }
}

/* Kills one process, or none, at any time. Processes 1 and 2 are alike, so killing 2 proves nothing more. */
proctype killer() {
  if
  :: alive[0] = false
  :: alive[1] = false
  :: true
  fi
}

init {
  byte p;
  atomic {
    for (p : 0 .. LIVES - 1) {
      alive[p] = true
    }
    row_taken = true; row_owner = 0; row_turn = 1; row_value = 1; row_set = true; has_row[0] = true; has_set[0] = true;
    run first();
    run process(1);
    run process(2);
    run reader();
    run killer()
  }
}
