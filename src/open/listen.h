/* The listening sockets of the process, which survive reloads of its VMs. The other functions are in chalk.h. */
#ifndef LISTEN_H
#define LISTEN_H

/* Makes all listening sockets survive exec, or not, as process_hands_on says. Takes the process lock. */
void listeners_mark(void);

#endif
