/*
 * Inheritance. The first process of a server opens memory and sockets, and other processes inherit them: the workers
 * that it forks, and the program that replaces it when its binary is upgraded, which finds them among its descriptors.
 * Descriptors of segments and sockets stay open over exec as long as process_hands_on is true.
 */
#ifndef INHERIT_H
#define INHERIT_H

#include <stdbool.h>
#include <sys/socket.h>

/* Makes a descriptor survive exec, or not, as process_hands_on says now. */
void inherit_mark(int fd);

/* Marks a socket as opened by chalk, which distinguishes it from the listening sockets of the server. */
void inherit_sign(int fd);

/* Whether a socket still listens. It stops for all processes that have it when one of them shuts it down. */
bool inherit_is_listening(int fd);

/*
 * Returns the descriptor that the process inherited for the memory file with this label, or for the signed listening
 * socket with this address. -1: there is none. Each call finds the same descriptor; the caller makes sure that it is
 * used once.
 */
int inherit_memory(const char *name);
int inherit_listener(const struct sockaddr *address, socklen_t size);

#endif
