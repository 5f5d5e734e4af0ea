/*
 * Taking over the slot of an owner that dies at any moment, by processes that may have got the dead one's process id.
 *
 * A slot names its owner by process id and start time. Each is a store of its own, under the registry lock, which the
 * next taker gets if the lock's owner has died. Without a proof an owner is alive: it is dead only if no process has
 * its id and start time. A process dies in two steps. First its main thread ends, after which it looks dead at first
 * sight, while another of its threads may still run; then all threads have ended. A forked child has its parent's
 * handles, and takes a slot of its own before it records.
 *
 * Proved: no process stores into a slot that another live process owns; what was stored stays, whichever process takes
 * the slot; and if there are as many slots as live processes, a process always finds a slot.
 *
 * Dead processes block for ever in the middle of what they did, so use `pan -E`, which does not report that.
 *
 * BROKEN, each of which has to fail:
 *   1  the end of the main thread is taken for death
 *   2  an owner is identified by its process id alone
 *   3  a child records into its parent's slot
 *   4  a slot is taken without the lock
 *   5  a process that takes a slot over sets its cell to zero
 */
#ifndef BROKEN
#define BROKEN 0
#endif

#define SLOTS 2
#define LIVES 3 /* processes, never more than SLOTS at once */
#define PIDS 2
#define NOBODY 255

#define UNBORN 0
#define RUNNING 1
#define ENDING 2 /* the main thread has ended, another one still runs */
#define GONE 3

/* The processes. The index of a process is also its start time. */
byte life[LIVES], id_of[LIVES];

/* The segment. A lock whose owner is dead can be taken. */
bool taken[SLOTS];
byte owner_pid[SLOTS], owner_start[SLOTS], cell[SLOTS];
byte locked = NOBODY;

/* What really happened, for the proof. */
byte stored[SLOTS], slot_of[LIVES];

#if BROKEN == 1
#define STANDS(p) (life[p] == RUNNING)
#else
#define STANDS(p) (life[p] == RUNNING || life[p] == ENDING)
#endif
#if BROKEN == 2
#define IS(p, s) (STANDS(p) && id_of[p] == owner_pid[s])
#else
#define IS(p, s) (STANDS(p) && id_of[p] == owner_pid[s] && p == owner_start[s])
#endif
#define LIVES_ON(s) (IS(0, s) || IS(1, s) || IS(2, s))

#if BROKEN == 4
#define take(p) skip
#define give() skip
#else
#define take(p) atomic { (locked == NOBODY || life[locked] == GONE) -> locked = p }
#define give() locked = NOBODY
#endif

/* Finds a free slot, or else one of a dead owner. */
inline find(s) {
  d_step {
    s = 0;
    do
    :: s < SLOTS && taken[s] -> s++
    :: else -> break
    od
  }
  if
  :: s < SLOTS
  :: else ->
    s = 0;
    do
    :: s < SLOTS && LIVES_ON(s) -> s++
    :: else -> break
    od
  fi
}

inline own(p, s) {
  take(p);
  find(s);
  assert(s < SLOTS);
  owner_start[s] = p;
  owner_pid[s] = id_of[p];
#if BROKEN == 5
  atomic { cell[s] = 0; taken[s] = true; slot_of[p] = s };
#else
  atomic { taken[s] = true; slot_of[p] = s };
#endif
  give()
}

#define OWNS(q, s) (slot_of[q] == s && (life[q] == RUNNING || life[q] == ENDING))
#define OWNED_BY_OTHER(p, s) ((p != 0 && OWNS(0, s)) || (p != 1 && OWNS(1, s)) || (p != 2 && OWNS(2, s)))

inline record(p, s, had) {
  had = cell[s];
  atomic {
    assert(!OWNED_BY_OTHER(p, s));
    cell[s] = had + 1;
    stored[s]++;
    had = 0;
    assert(cell[s] == stored[s])
  }
}

/* A process. `inherited` is the slot of its parent, NOBODY if it was not forked by one that has a slot. */
proctype process(byte p; byte inherited) provided (life[p] != GONE) {
  byte s = inherited, had;
#if BROKEN == 3
  if
  :: s == NOBODY -> own(p, s)
  :: else -> slot_of[p] = s
  fi;
#else
  own(p, s);
#endif
  record(p, s, had);
  /* Gives the slot back, or ends without doing so. */
  if
  :: true ->
    take(p);
    atomic { taken[s] = false; slot_of[p] = NOBODY };
    give()
  :: true
  fi
}

#define LIVING ((life[0] == RUNNING || life[0] == ENDING) + (life[1] == RUNNING || life[1] == ENDING) + \
                (life[2] == RUNNING || life[2] == ENDING))
#define HAS_PID(q, n) ((life[q] == RUNNING || life[q] == ENDING) && id_of[q] == n)
#define IS_PID(n) (HAS_PID(0, n) || HAS_PID(1, n) || HAS_PID(2, n))

/* Starts processes, with ids that no live process has, and kills them. */
active proctype world() {
  byte born, i, n;
  atomic {
    i = 0;
    do
    :: i < LIVES -> slot_of[i] = NOBODY; i++
    :: else -> break
    od;
    i = 0
  };
  do
  :: born < LIVES && LIVING < SLOTS ->
    atomic {
      n = 0;
      do
      :: IS_PID(n) -> n++
      :: else -> break
      od;
      id_of[born] = n;
      life[born] = RUNNING;
      if
      :: born > 0 && life[born - 1] == RUNNING -> run process(born, slot_of[born - 1])
      :: else -> run process(born, NOBODY)
      fi;
      born++;
      n = 0
    }
  :: atomic { born > 0 ->
      if
      :: life[born - 1] == RUNNING -> life[born - 1] = ENDING
      :: life[born - 1] == ENDING -> life[born - 1] = GONE
      :: born > 1 && life[born - 2] == RUNNING -> life[born - 2] = ENDING
      :: born > 1 && life[born - 2] == ENDING -> life[born - 2] = GONE
      :: else
      fi }
  :: born == LIVES -> break
  od;
  assert(cell[0] == stored[0] && cell[1] == stored[1])
}
