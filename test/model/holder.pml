/*
 * The flusher's role between an old and a new configuration, one of which dies at any moment.
 *
 * The holder owns a robust lock, which a dead owner's successor gets. It sends what came since the cursor, then commits:
 * stores in the segment what it sent. One that sees a newer configuration hands over; the older may hold again once the
 * newer has shown no sign of life for a while, and only if the lock is free.
 *
 * Proved: one process flushes at a time; nothing is lost; nothing is sent twice, but for a batch whose sender died
 * before he could commit it. The dead stand still, so `pan -E` is to be used.
 *
 * BROKEN, each of which has to fail:
 *   1  the cursor is committed before the batch is sent
 *   2  a configuration holds without the lock when the other one seems stuck
 *   3  a holder goes on from where it was when it last held
 */
#ifndef BROKEN
#define BROKEN 0
#endif

#define PROCESSES 2
#define NOBODY 255

/* The segment. */
byte total, cursor, holder = NOBODY;

/* The world and the truth. */
bool alive[PROCESSES];
byte delivered, repeated, in_flight[PROCESSES], flushing;
bool over;

#define FREE (holder == NOBODY || !alive[holder])

/* `was` is what the cursor stood at when this process took the role. */
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
  /* Who is newer, and whether it has shown life lately, is anybody's guess: so is when somebody tries, or hands over. */
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

/* Records, kills at most one, and looks when all has been sent. */
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
