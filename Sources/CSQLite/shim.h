// SQLite 3 as Swift sees it. Only Storage imports this. What does not cross
// into Swift (variadic functions, SQLITE_TRANSIENT) is an inline function here.
#ifndef MARTLET_CSQLITE_SHIM_H
#define MARTLET_CSQLITE_SHIM_H

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

/// Binds a copy of `count` bytes; an empty blob, not NULL, when there are none.
static inline int martlet_sqlite_bind_blob(sqlite3_stmt *statement, int index, const void *bytes,
                                           int count) {
  if (count == 0) return sqlite3_bind_zeroblob(statement, index, 0);
  return sqlite3_bind_blob(statement, index, bytes, count, SQLITE_TRANSIENT);
}

/// Binds a copy of `count` bytes of UTF-8.
static inline int martlet_sqlite_bind_text(sqlite3_stmt *statement, int index, const char *text,
                                           int count) {
  return sqlite3_bind_text(statement, index, text, count, SQLITE_TRANSIENT);
}

/// SQL cannot write to the schema table or turn journals off.
static inline int martlet_sqlite_defend(sqlite3 *database) {
  return sqlite3_db_config(database, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)0);
}

/// Creates the file for its owner alone if it is missing; the files SQLite puts
/// beside it take over its mode. 0, or errno.
static inline int martlet_sqlite_create_private(const char *path) {
  int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) return errno;
  close(file);
  return 0;
}

#endif
