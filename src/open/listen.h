/* The listening sockets of the process, which stay with it over reloads of its VMs. */
#ifndef LISTEN_H
#define LISTEN_H

/* Marks all of them as what process_hands_on says. */
void listeners_mark(void);

#endif
