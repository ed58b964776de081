-- A database to ask, and an account that may read its one table and nothing else.
\set ON_ERROR_STOP 1
create database ipcctl_example;
create role ipcctl_example login password 'only-for-this-example';
\connect ipcctl_example
create table orders (id int primary key, customer text not null, day date not null, total numeric(10, 2) not null);
insert into orders values
  (1, 'ada', '2026-05-02', 120.00),
  (2, 'bob', '2026-05-09', 80.50),
  (3, 'ada', '2026-05-23', 40.25),
  (4, 'eve', '2026-05-30', 15.00);
grant select on orders to ipcctl_example;
