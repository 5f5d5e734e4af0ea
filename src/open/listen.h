/* The listening sockets of the process, which stay with it over reloads of its VMs. chalk.h has the other functions. */
#ifndef LISTEN_H
#define LISTEN_H

/* Makes all listening sockets survive exec, or not, as process_hands_on says. Takes the process lock. */
void listeners_mark(void);

#endif
