/*
 * Inheritance. A server with worker processes opens memory and sockets in its first process and hands them on: to the
 * workers that it forks, and to the program that replaces it in an upgrade of its binary, which finds them among its
 * descriptors. What is handed on is not closed on exec, as long as process_hands_on says so.
 */
#ifndef INHERIT_H
#define INHERIT_H

#include <stdbool.h>
#include <sys/socket.h>

/* Makes a descriptor survive exec, or not, as process_hands_on says now. */
void inherit_mark(int fd);

/* Marks a socket itself as opened by chalk: the server has listening sockets of its own among the descriptors. */
void inherit_sign(int fd);

/* Whether a socket still listens. It does not once any process that has it has shut it down. */
bool inherit_is_listening(int fd);

/*
 * The descriptor of the memory file of this label, or of the signed listening socket of this address, that came with
 * the process. It stays one of the process's; nobody is given it twice by this alone. -1: none came.
 */
int inherit_memory(const char *name);
int inherit_listener(const struct sockaddr *address, socklen_t size);

#endif
