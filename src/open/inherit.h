/*
 * A server with worker processes opens memory and sockets in its first process and hands them on: to the workers it
 * forks, and to the program that replaces it in an upgrade of its binary, which finds them among its descriptors.
 */
#ifndef INHERIT_H
#define INHERIT_H

#include <stdbool.h>
#include <sys/socket.h>

/* Lets a descriptor survive exec, or not, as is in force now. */
void inherit_mark(int fd);

/* Says on a socket itself that it was opened here: the server listens, too. */
void inherit_sign(int fd);

/* Whether connections come in at it, which end for all processes where one has shut it down. */
bool inherit_is_listening(int fd);

/*
 * The memory file of this name, or the listening socket of this address and so signed, that came with the process; -1:
 * none did.
 */
int inherit_memory(const char *name);
int inherit_listener(const struct sockaddr *address, socklen_t size);

#endif
