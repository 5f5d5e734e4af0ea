/*
 * The flusher's role between an old and a new configuration, one of which dies at any moment.
 *
 * The holder owns a robust lock, which the kernel hands to the next process if the owner dies. The holder sends what
 * was recorded since the cursor, then commits: it stores in the segment what it has sent. A holder that sees a newer
 * configuration gives the role up. The older one may take it again if the newer one has shown no sign of life for a
 * while, and only if the lock is free.
 *
 * Proved: one process flushes at a time; nothing is lost; and nothing is sent twice, except for a batch whose sender
 * died before it committed. Dead processes block for ever, so use `pan -E`, which does not report that.
 *
 * BROKEN, each of which has to fail:
 *   1  the cursor is committed before the batch is sent
 *   2  a configuration takes the role without the lock when the other one seems stuck
 *   3  a holder continues from the cursor of its last time as the holder
 */
#ifndef BROKEN
#define BROKEN 0
#endif

#define PROCESSES 2
#define NOBODY 255

/* The segment. */
byte total, cursor, holder = NOBODY;

/* The processes, and what really happened, for the proof. */
bool alive[PROCESSES];
byte delivered, repeated, in_flight[PROCESSES], flushing;
bool over;

#define FREE (holder == NOBODY || !alive[holder])

/* Sends what was recorded since `was`, which is the cursor, and commits. */
inline flush(p, now, was) {
  now = total;
#if BROKEN != 3
  was = cursor;
#endif
#if BROKEN == 1
  cursor = now;
#endif
  atomic { delivered = delivered + now - was; in_flight[p] = now - was };
  atomic { cursor = now; was = now; now = 0; in_flight[p] = 0 }
}

proctype process(byte p) provided (alive[p]) {
  byte now, was;
  do
  /*
   * Which one is newer, and which has shown life lately, is left open: a process may take the role whenever it is free.
   */
  :: atomic { FREE || BROKEN == 2 ->
      holder = p;
      flushing++;
      assert(flushing == 1)
    }
    do
    :: flush(p, now, was)
    :: break
    od;
    atomic { flushing--; holder = NOBODY }
  :: over -> break
  od
}

/* Records, kills at most one process, and checks once all has been sent. */
active proctype world() {
  byte victim = NOBODY;
  atomic { alive[0] = true; alive[1] = true; run process(0); run process(1) };
  do
  :: total < 3 -> total++
  :: atomic { victim == NOBODY ->
      if
      :: victim = 0
      :: victim = 1
      fi;
      alive[victim] = false;
      repeated = in_flight[victim];
      if
      :: holder == victim -> flushing--
      :: else
      fi }
  :: total == 3 && FREE && cursor == total -> break
  od;
  atomic {
    FREE ->
    assert(delivered == total + repeated);
    over = true
  }
}
